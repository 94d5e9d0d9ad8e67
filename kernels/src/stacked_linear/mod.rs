//! The products of groups of rows, each with a matrix of its own, where one tensor has all matrices and is trained: the adapters of a
//! mixture of experts.

pub(crate) mod autodiff;
pub(crate) mod flex;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::grouped_linear::{Group, GroupWeight, RawGroup};
use crate::primitive::{raw, typed};

/// How many rows belong to each matrix, in the order of the matrices; those of one begin where those of the one before it end.
pub type GroupRows = Arc<[usize]>;

/// `x_g · W_gᵀ` for each group of rows, one after the other, where `W` has the matrix of each group below that of the one before it. The
/// backward is `dx_g = dy_g · W_g` and `dW_g = dy_gᵀ · x_g`. Matrices without rows are not multiplied; their gradient is zero.
///
/// # Shapes
/// `x` `[rows, in]`, where `rows` is the sum of the groups' rows; `weight` `[groups · out, in]`; the result is `[rows, out]`.
///
/// # Panics
/// When there is no row, the rows of the groups are not all rows of `x`, or the shapes don't fit.
///
/// # Source
/// Gale et al. 2022, "MegaBlocks".
pub fn stacked_linear<B: FusedBackend>(x: Tensor<B, 2>, weight: Tensor<B, 2>, rows: GroupRows) -> Tensor<B, 2> {
    let ([count, inputs], [all, columns]) = (x.dims(), weight.dims());
    assert!(count > 0 && rows.iter().sum::<usize>() == count, "stacked_linear: the rows of x and of the groups");
    assert_eq!(inputs, columns, "stacked_linear: the columns of x and of the weight");
    assert!(all.is_multiple_of(rows.len()), "stacked_linear: {all} rows of the weight for {} groups", rows.len());
    typed(B::stacked_linear(raw(x), raw(weight), rows))
}

/// The groups that have rows, with their matrices.
fn groups<B: FusedBackend>(weight: FloatTensor<B>, rows: &[usize]) -> Vec<RawGroup<B>> {
    let weight = typed::<B, 2>(weight);
    let outputs = weight.dims()[0] / rows.len();
    let group = |(index, rows): (usize, &usize)| Group {
        rows: *rows,
        weight: GroupWeight::Dense(raw(weight.clone().narrow(0, index * outputs, outputs))),
    };
    rows.iter().enumerate().filter(|(_, rows)| **rows > 0).map(group).collect()
}

/// The composed forward: a product for each group that has rows.
pub fn reference<B: FusedBackend>(x: FloatTensor<B>, weight: FloatTensor<B>, rows: GroupRows) -> FloatTensor<B> {
    B::grouped_linear(x, groups::<B>(weight, &rows))
}

/// The composed gradient for the input, group by group.
pub fn reference_backward_input<B: FusedBackend>(
    grad: FloatTensor<B>,
    weight: FloatTensor<B>,
    rows: GroupRows,
) -> FloatTensor<B> {
    B::grouped_linear_backward_input(grad, groups::<B>(weight, &rows))
}

/// The composed gradient for the weight: a product for each group that has rows, and zeros for the others.
pub fn reference_backward_weight<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    rows: GroupRows,
) -> FloatTensor<B> {
    let (outputs, inputs) = (grad.shape()[1], x.shape()[1]);
    let (x, grad) = (typed::<B, 2>(x), typed::<B, 2>(grad));
    let (device, dtype) = (grad.device(), grad.dtype());
    let mut parts: Vec<Tensor<B, 2>> = Vec::new();
    let (mut start, mut unused) = (0, 0);
    let zeros = |matrices: usize| Tensor::<B, 2>::zeros([matrices * outputs, inputs], (&device, dtype));
    for count in rows.iter().copied() {
        if count == 0 {
            unused += 1;
            continue;
        }
        if unused > 0 {
            parts.push(zeros(unused));
            unused = 0;
        }
        let [x, grad] = [&x, &grad].map(|tensor| raw(tensor.clone().narrow(0, start, count)));
        parts.push(typed(B::linear_backward_weight(x, grad)));
        start += count;
    }
    if unused > 0 {
        parts.push(zeros(unused));
    }
    raw(Tensor::cat(parts, 0))
}
