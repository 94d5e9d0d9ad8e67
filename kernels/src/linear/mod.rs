//! The product with a weight stored as in the checkpoint.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
pub mod packed;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// `x · Wᵀ`. The backward is `dx = dy · W` and, where the weight trains, `dW = dyᵀ · x`.
///
/// With a frozen weight nothing of `x` is kept for the backward.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]`; the result is `[rows, out]`.
///
/// # Panics
/// When `in` differs.
pub fn linear<B: FusedBackend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    assert_eq!(x.dims()[1], weight.dims()[1], "linear: x {:?} and weight {:?} do not fit", x.dims(), weight.dims());
    typed(B::dense_linear(raw(x), raw(weight)))
}

/// The composed forward.
pub fn reference<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, B::float_transpose(weight))
}

/// The composed gradient for the input: `dy · W`.
pub fn reference_backward_input<B: Backend>(grad: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(grad, weight)
}

/// The composed gradient for the weight: `dyᵀ · x`.
pub fn reference_backward_weight<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(grad), x)
}
