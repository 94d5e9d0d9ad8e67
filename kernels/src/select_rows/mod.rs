//! Some rows of a matrix, each at most once.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The rows of `x` at `positions`, which must differ: so the backward is a copy, without sums.
///
/// # Shapes
/// `x` `[rows, features]`, `positions` `[kept]`; the result is `[kept, features]`.
///
/// # Panics
/// Some backends panic where a position is beyond the rows.
pub fn select_rows<B: FusedBackend>(x: Tensor<B, 2>, positions: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    typed(B::select_rows(raw(x), positions.into_primitive()))
}

/// The composed selection.
pub fn reference<B: Backend>(x: FloatTensor<B>, positions: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(x, 0, positions)
}

/// The composed gradient: zeros, with the rows of `grad` at `positions`.
pub fn reference_backward<B: Backend>(grad: FloatTensor<B>, positions: IntTensor<B>, rows: usize) -> FloatTensor<B> {
    let grad = typed::<B, 2>(grad);
    let zeros = Tensor::<B, 2>::zeros([rows, grad.dims()[1]], &grad.device()).cast(raw::<B, 2>(grad.clone()).dtype());
    raw(zeros.select_assign(0, Tensor::from_primitive(positions), grad, IndexingUpdateOp::Add))
}
