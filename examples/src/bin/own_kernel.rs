//! A runtime of your own that replaces one operation, `silu(gate) · up` of the feed-forward, by a kernel of your own. All other
//! operations stay kernels of the library, also in training.
//!
//! `cargo run --release -p burnish-examples --bin own_kernel` needs a GPU, or software Vulkan.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use burn::backend::Flex;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burnish_kernels::glu::{self, Activation};
use burnish_kernels::{BackendOn, FusedBackend, KernelRuntime};
use burnish_metal::MetalRuntime;
use burnish_models::{LoadOptions, Message, ModelInput, Pretrained};
use cubecl::prelude::*;

/// The runtime of `metal` and `vulkan`, under another name.
#[derive(Debug, Clone)]
pub struct OwnRuntime;

/// A backend for everything in Burnish.
pub type Own = CubeBackend<OwnRuntime, f32, i32, u8>;

impl Runtime for OwnRuntime {
    type Compiler = <MetalRuntime as Runtime>::Compiler;
    type Server = <MetalRuntime as Runtime>::Server;
    type Device = <MetalRuntime as Runtime>::Device;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "own"
    }

    burnish_kernels::runtime_from!(MetalRuntime);
}

impl KernelRuntime for OwnRuntime {
    const FUSED: bool = true;

    fn glu<B: BackendOn<Self>>(gate: FloatTensor<B>, up: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
        if activation != Activation::Silu || gate.dtype() != DType::F32 {
            return glu::reference::<B>(gate, up, activation);
        }
        launch(gate, up)
    }
}

/// Launches of the kernel.
static LAUNCHES: AtomicUsize = AtomicUsize::new(0);

/// Each thread computes one element.
#[cube(launch)]
fn silu_times(gate: &Array<f32>, up: &Array<f32>, product: &mut Array<f32>) {
    if ABSOLUTE_POS < product.len() {
        let z = gate[ABSOLUTE_POS];
        product[ABSOLUTE_POS] = z / (1.0f32 + f32::exp(-z)) * up[ABSOLUTE_POS];
    }
}

fn launch(gate: CubeTensor<OwnRuntime>, up: CubeTensor<OwnRuntime>) -> CubeTensor<OwnRuntime> {
    const THREADS: u32 = 256;
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (client, shape) = (gate.client.clone(), gate.shape());
    let elements = shape.num_elements();
    let memory = client.empty(elements * size_of::<f32>());
    let product = CubeTensor::new_contiguous(client.clone(), gate.device.clone(), shape, memory, DType::F32);
    silu_times::launch::<OwnRuntime>(
        &client,
        CubeCount::Static((elements as u32).div_ceil(THREADS), 1, 1),
        CubeDim::new_1d(THREADS),
        gate.into_array_arg(),
        up.into_array_arg(),
        product.clone().into_array_arg(),
    );
    product
}

/// The logits after the last token of a prompt.
fn logits<B: FusedBackend>(base: &Pretrained, prompt: &[u32]) -> Result<Vec<f32>> {
    let device = B::Device::default();
    let model = base.load::<B>(&device, LoadOptions::default())?;
    let hidden = model.hidden_states(&ModelInput::texts(prompt, 1, 0, &device), None);
    Ok(model.logits(hidden.narrow(0, prompt.len() - 1, 1)).into_data().iter::<f32>().collect())
}

fn main() -> Result<()> {
    let base = Pretrained::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model"))?;
    let prompt = base.chat_prompt(&[Message::new("user", "Table for 4 at Luigi's on Friday at 7 pm, please.")])?;
    let (expected, found) = (logits::<Flex>(&base, &prompt)?, logits::<Own>(&base, &prompt)?);
    let differences = expected.iter().zip(&found).map(|(expected, found)| (expected - found).abs());
    let launches = LAUNCHES.load(Ordering::Relaxed);
    println!("the kernel ran {launches} times, once in each of the {} blocks", base.config.num_hidden_layers);
    println!("largest difference of a logit to the CPU: {:.1e}", differences.fold(0.0, f32::max));
    Ok(())
}
