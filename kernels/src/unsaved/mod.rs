//! Linear operations whose gradients need none of their inputs. burn's own, with checkpointing, hold their inputs until the backward
//! begins, in case that one of them must be computed again.

pub(crate) mod autodiff;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The elements of `x` in another shape, in the same order.
///
/// # Panics
/// When the shapes have different numbers of elements.
pub fn view<B: FusedBackend, const D: usize, const E: usize>(x: Tensor<B, D>, shape: [usize; E]) -> Tensor<B, E> {
    typed(B::view(raw(x), shape.into()))
}

/// `factor · x`, of any shape, computed in the type of `x`.
pub fn scale<B: FusedBackend, const D: usize>(x: Tensor<B, D>, factor: f64) -> Tensor<B, D> {
    typed(B::scale(raw(x), factor))
}

/// `x + bias` in each row, computed in the type of both.
///
/// # Shapes
/// `x` `[rows, features]`, `bias` `[features]`; the result has the shape of `x`.
///
/// # Panics
/// When the bias has another length than the rows.
pub fn add_bias<B: FusedBackend>(x: Tensor<B, 2>, bias: Tensor<B, 1>) -> Tensor<B, 2> {
    let ([_, features], [length]) = (x.dims(), bias.dims());
    assert_eq!(length, features, "add_bias: a bias of {length} elements for rows of {features}");
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
