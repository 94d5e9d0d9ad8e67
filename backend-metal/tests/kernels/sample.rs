//! Random tensors on two backends, and the comparison of results.

use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use burnish_kernels::tolerance::Tolerance;

/// The dtypes of the device: neither Metal (cubecl 0.10) nor software Vulkan has bf16.
pub fn dtypes<B: Backend>() -> Vec<DType> {
    let device = B::Device::default();
    let all = [DType::F32, DType::F16, DType::BF16];
    let dtypes: Vec<DType> = all.into_iter().filter(|dtype| B::supports_dtype(&device, *dtype)).collect();
    let name = B::name(&device);
    for dtype in known(&name) {
        assert!(dtypes.contains(dtype), "{name} has {dtypes:?}: its kernels would go untested in {dtype:?}");
    }
    dtypes
}

/// The dtypes that a known device has at least: other GPUs may have f32 only.
fn known(name: &str) -> &'static [DType] {
    match name {
        "cubecl<cuda>" => &[DType::F32, DType::F16, DType::BF16],
        "cubecl<metal>" | "cubecl<emulator>" => &[DType::F32, DType::F16],
        "cubecl<vulkan>" | "cubecl<wgsl>" if !burnish_metal::has_gpu() => &[DType::F32, DType::F16],
        "cubecl<vulkan>" | "cubecl<wgsl>" => &[DType::F32],
        name => panic!("add the dtypes of {name} here"),
    }
}

/// Whether a case is tested in this dtype. Kernels take long to compile: where there are many, each case, such as a format, is tested in
/// one dtype of the device, in turn, and with `BURNISH_TESTS=all`, which `.ci/nightly` sets, in every one.
pub fn in_turn<B: Backend>(case: usize, dtype: DType) -> bool {
    let dtypes = dtypes::<B>();
    all_cases() || dtypes[case % dtypes.len()] == dtype
}

/// Whether no case is left out.
pub fn all_cases() -> bool {
    std::env::var("BURNISH_TESTS").is_ok_and(|tests| tests == "all")
}

/// Rows and features: odd ones, and more than a block.
pub const ROWS: [(usize, usize); 5] = [(1, 1), (3, 23), (23, 77), (130, 64), (50, 777)];

pub fn raw<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

pub fn typed<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// The same values, rounded to a dtype, on the backend under test and as f32 on the CPU.
pub struct Pair<B: Backend, const D: usize> {
    pub device: Tensor<B, D>,
    pub cpu: Tensor<Flex, D>,
}

impl<B: Backend, const D: usize> Pair<B, D> {
    pub fn from(values: Vec<f32>, shape: [usize; D], dtype: DType) -> Self {
        let rounded = TensorData::new(values, shape).convert_dtype(dtype).convert_dtype(DType::F32);
        let device = Tensor::<B, D>::from_data(rounded.clone(), &Default::default()).cast(dtype);
        Self { device, cpu: Tensor::from_data(rounded, &Default::default()) }
    }

    pub fn raw(&self) -> FloatTensor<B> {
        raw(self.device.clone())
    }

    pub fn cpu(&self) -> FloatTensor<Flex> {
        raw(self.cpu.clone())
    }
}

/// Values from about a normal distribution.
pub fn numbers(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..4).map(|_| next()).sum::<f32>() * 1.7 * scale).collect()
}

pub fn random<B: Backend, const D: usize>(shape: [usize; D], seed: u32, dtype: DType) -> Pair<B, D> {
    Pair::from(numbers(shape.iter().product(), seed, 1.0), shape, dtype)
}

/// Compares within the tolerance of a dtype.
pub fn close<B: Backend, const D: usize>(name: &str, found: FloatTensor<B>, expected: FloatTensor<Flex>, dtype: DType) {
    let read = |data: TensorData| data.iter::<f32>().collect::<Vec<_>>();
    let found = typed::<B, D>(found);
    let expected = typed::<Flex, D>(expected);
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let found = found.cast(DType::F32).try_into_data().unwrap_or_else(|error| panic!("{name}: {error}"));
    let name = format!("{name} in {dtype:?}");
    Tolerance::of(dtype).check(&name, &read(found), &read(expected.into_data())).unwrap();
}

/// The dtype whose tolerance matrix products have: in f32 on CUDA they are burn's own, in tf32, which is as coarse as f16.
pub fn product_row<B: Backend>(dtype: DType) -> DType {
    let is_cuda = B::name(&B::Device::default()).contains("cuda");
    if is_cuda && dtype == DType::F32 { DType::F16 } else { dtype }
}
