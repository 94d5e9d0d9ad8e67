//! A runtime outside of these crates that replaces one operation: it is called, also by autodiff, and all others stay kernels.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{BackendOn, FusedBackend, KernelRuntime, layer_norm, rms_norm};
use burnish_metal::emulator::{EmulatorRuntime, take_reports};
use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;

#[derive(Debug, Clone)]
struct OwnRuntime;

type Own = CubeBackend<OwnRuntime, f32, i32, u8>;

impl Runtime for OwnRuntime {
    type Compiler = <EmulatorRuntime as Runtime>::Compiler;
    type Server = <EmulatorRuntime as Runtime>::Server;
    type Device = <EmulatorRuntime as Runtime>::Device;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "own"
    }

    burnish_kernels::runtime_from!(EmulatorRuntime);
}

/// Calls of the replaced operation.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl KernelRuntime for OwnRuntime {
    const FUSED: bool = true;

    fn rms_norm<B: BackendOn<Self>>(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        rms_norm::reference::<B>(x, weight, epsilon)
    }
}

/// Some numbers in `[-1, 1]`.
fn numbers<B: Backend, const D: usize>(shape: [usize; D], step: f32) -> Tensor<B, D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|index: usize| (index as f32 * step).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn read<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

/// Both norms of a matrix, and the gradient of the first.
fn norms<B: FusedBackend>() -> [Vec<f32>; 3] {
    let (x, weight, bias) = (numbers([5, 24], 0.7), numbers([24], 0.3), numbers([24], 0.2));
    let layer = layer_norm::layer_norm::<B>(x.clone(), weight.clone(), bias, 1e-5);
    let plain = rms_norm::rms_norm::<B>(x.clone(), weight.clone(), 1e-5);
    let leaf = Tensor::<Autodiff<B>, 2>::from_inner(x).require_grad();
    let gradients = rms_norm::rms_norm(leaf.clone(), Tensor::from_inner(weight), 1e-5).powi_scalar(2).sum().backward();
    [read(plain), read(layer), read(leaf.grad(&gradients).unwrap())]
}

#[test]
fn one_operation_is_replaced() {
    let expected = norms::<Flex>();
    let found = norms::<Own>();
    for ((name, found), expected) in ["rms_norm", "layer_norm", "gradient"].into_iter().zip(found).zip(expected) {
        Tolerance::of(DType::F32).check(name, &found, &expected).unwrap();
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 2);
    // The norm's backward and the other norm are kernels of their own.
    let kernels: Vec<_> = take_reports().into_keys().collect();
    let launched = |name: &str| kernels.iter().filter(|kernel| kernel.contains(name)).count();
    assert_eq!((launched("forward_kernel"), launched("backward_kernel")), (1, 1), "{kernels:?}");
}

#[test]
fn a_launch_sees_no_features_and_a_kernel_that_it_compiles_all() {
    let client = OwnRuntime::client(&Default::default());
    let launched = burnish_cubecl::launching(&client);
    assert_ne!(launched.properties().features, client.properties().features);
    assert_eq!(launched.properties().features, Default::default());
    assert_eq!(launched.properties().hardware, client.properties().hardware);
    assert_eq!(launched.clone().properties(), client.properties());
}
