//! The squared norm over many tensors, for clipping gradients.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// `Σ x²` over all elements of all tensors, with as many tensors in a launch as the device can bind; 0 without tensors.
///
/// # Shapes
/// Any; the result is `[1]`, f32.
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`, whose norm is its square root.
pub fn squared_norm<B: FusedBackend>(tensors: Vec<FloatTensor<B>>, device: &B::Device) -> Tensor<B, 1> {
    typed(B::squared_norm(tensors, device))
}

/// The composed sum.
pub fn reference<B: Backend>(tensors: Vec<FloatTensor<B>>, device: &B::Device) -> FloatTensor<B> {
    let squares = tensors.into_iter().map(|tensor| {
        let flat = Shape::from([tensor.shape().num_elements()]);
        let tensor = typed::<B, 1>(B::float_reshape(tensor, flat)).cast(DType::F32);
        (tensor.clone() * tensor).sum()
    });
    raw(squares.reduce(|a, b| a + b).unwrap_or_else(|| Tensor::<B, 1>::zeros([1], device).cast(DType::F32)))
}
