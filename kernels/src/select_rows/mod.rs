//! Some rows of a matrix, each at most once.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The rows of `x` at `places`. That no place comes twice makes the backward a copy: rows are not added up.
///
/// # Shapes
/// `x` `[rows, features]`, `places` `[kept]`; the result is `[kept, features]`.
///
/// # Panics
/// Some backends panic where a place is beyond the rows.
pub fn select_rows<B: FusedBackend>(x: Tensor<B, 2>, places: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    typed(B::select_rows(raw(x), places.into_primitive()))
}

/// The composed selection.
pub fn reference<B: Backend>(x: FloatTensor<B>, places: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(x, 0, places)
}

/// The composed gradient: zeros, with the rows of `grad` at `places`.
pub fn reference_backward<B: Backend>(grad: FloatTensor<B>, places: IntTensor<B>, rows: usize) -> FloatTensor<B> {
    let grad = typed::<B, 2>(grad);
    let zeros = Tensor::<B, 2>::zeros([rows, grad.dims()[1]], &grad.device()).cast(raw::<B, 2>(grad.clone()).dtype());
    raw(zeros.select_assign(0, Tensor::from_primitive(places), grad, IndexingUpdateOp::Add))
}
