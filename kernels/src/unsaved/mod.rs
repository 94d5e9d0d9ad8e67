//! Linear operations whose gradients need none of their inputs. burn's own, with checkpointing, hold their inputs until the backward
//! begins, in case that one of them must be computed again.

pub(crate) mod autodiff;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The elements of `x` in another shape.
///
/// # Panics
/// When the shapes have different numbers of elements.
pub fn view<B: FusedBackend, const D: usize, const E: usize>(x: Tensor<B, D>, shape: [usize; E]) -> Tensor<B, E> {
    typed(B::view(raw(x), shape.into()))
}

/// `factor · x`.
pub fn scale<B: FusedBackend, const D: usize>(x: Tensor<B, D>, factor: f64) -> Tensor<B, D> {
    typed(B::scale(raw(x), factor))
}

/// `x + bias` in each row of `x`, `[rows, features]`, with a `bias` of `[features]`.
///
/// # Panics
/// When the bias has another length than the rows.
pub fn add_bias<B: FusedBackend>(x: Tensor<B, 2>, bias: Tensor<B, 1>) -> Tensor<B, 2> {
    let ([_, features], [length]) = (x.dims(), bias.dims());
    assert_eq!(length, features, "add_bias: a bias for rows of another length");
    typed(B::add_bias(raw(x), raw(bias)))
}

/// The composed product.
pub fn reference_scale<B: Backend>(x: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    B::float_mul_scalar(x, factor.into())
}

/// The composed sum.
pub fn reference_add_bias<B: Backend>(x: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    raw(typed::<B, 2>(x) + typed::<B, 1>(bias).unsqueeze())
}
