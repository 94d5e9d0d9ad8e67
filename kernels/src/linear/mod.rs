//! The product with a weight stored as in the checkpoint.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
mod few_rows;
pub(crate) mod flex;
pub mod packed;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::glu::Activation;
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

/// [`linear()`] with each of the weights. Few rows, as in decoding, take one launch for up to three weights.
///
/// # Panics
/// When an `in` differs.
pub fn linears<B: FusedBackend>(x: Tensor<B, 2>, weights: Vec<Tensor<B, 2>>) -> Vec<Tensor<B, 2>> {
    for weight in &weights {
        assert_eq!(x.dims()[1], weight.dims()[1], "linears: x {:?} and weight {:?} do not fit", x.dims(), weight.dims());
    }
    B::dense_linears(raw(x), weights.into_iter().map(raw).collect()).into_iter().map(typed).collect()
}

/// `f(x · Gᵀ) · (x · Uᵀ)` of the weights `[G, U]`, see [`crate::swiglu()`] and [`crate::geglu()`]. Few rows take one launch.
///
/// # Shapes
/// `x` `[rows, in]`, the weights `[out, in]`; the result is `[rows, out]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn glu_linear<B: FusedBackend>(x: Tensor<B, 2>, weights: [Tensor<B, 2>; 2], activation: Activation) -> Tensor<B, 2> {
    let [gate, up] = weights.each_ref().map(Tensor::dims);
    assert!(gate == up && x.dims()[1] == up[1], "glu_linear: x {:?} and weights {gate:?} and {up:?} do not fit", x.dims());
    typed(B::glu_linear(raw(x), weights.map(raw), activation))
}

/// The products with both weights, then the activation, each as the backend computes it.
pub fn reference_glu<B: FusedBackend>(
    x: FloatTensor<B>,
    [gate, up]: [FloatTensor<B>; 2],
    activation: Activation,
) -> FloatTensor<B> {
    B::glu(B::dense_linear(x.clone(), gate), B::dense_linear(x, up), activation)
}

/// The composed forward.
pub fn reference<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, B::float_transpose(weight))
}

/// The composed forward of each weight.
pub fn references<B: Backend>(x: FloatTensor<B>, weights: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> {
    weights.into_iter().map(|weight| reference::<B>(x.clone(), weight)).collect()
}

/// The composed gradient for the input: `dy · W`.
pub fn reference_backward_input<B: Backend>(grad: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(grad, weight)
}

/// The composed gradient for the weight: `dyᵀ · x`.
pub fn reference_backward_weight<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(grad), x)
}
