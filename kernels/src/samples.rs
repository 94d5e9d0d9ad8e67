//! What tests of products share: random matrices, their values, and the comparison of values.

use burn::tensor::{DType, Distribution, Tensor};

use crate::FusedBackend;
use crate::tolerance::Tolerance;

pub fn random<B: FusedBackend>(shape: [usize; 2]) -> Tensor<B, 2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

pub fn values<B: FusedBackend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

pub fn close(name: &str, found: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, found, expected).unwrap();
}
