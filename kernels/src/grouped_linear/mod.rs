//! The products of groups of rows, each with a weight of its own: a mixture of experts.

pub(crate) mod autodiff;
pub(crate) mod flex;
#[cfg(test)]
mod tests;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};

/// A matrix `[out, in]` of a group.
#[derive(Debug, Clone)]
pub enum GroupWeight<F, P> {
    /// Floats.
    Dense(F),
    /// Few bits a weight.
    Packed(P),
}

/// Some rows of the input, and the weight that they are multiplied by.
#[derive(Debug, Clone)]
pub struct Group<F, P> {
    /// How many rows; those of the group before it end where its own begin.
    pub rows: usize,
    /// Their weight.
    pub weight: GroupWeight<F, P>,
}

/// A group whose weight is a typed tensor.
pub type TensorGroup<B> = Group<Tensor<B, 2>, PackedTensor<B>>;

/// A group as backends take it.
pub type RawGroup<B> = Group<FloatTensor<B>, PackedTensor<B>>;

impl<B: FusedBackend> RawGroup<B> {
    /// `[out, in]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        match &self.weight {
            GroupWeight::Dense(weight) => [weight.shape()[0], weight.shape()[1]],
            GroupWeight::Packed(weight) => weight.dims(),
        }
    }
}

/// `x_g · W_gᵀ` for each group of rows, one after the other. The backward is `dx_g = dy_g · W_g`; with frozen weights nothing of `x`
/// is kept for it. Only the weights that are given are multiplied: of a mixture of experts, those that a row chose.
///
/// # Shapes
/// `x` `[rows, in]`, where `rows` is the sum of the groups' rows; all weights `[out, in]`; the result is `[rows, out]`.
///
/// # Panics
/// When there is no group, the rows of the groups are not all rows of `x`, or a weight has another shape.
///
/// # Source
/// Gale et al. 2022, "MegaBlocks".
pub fn grouped_linear<B: FusedBackend>(x: Tensor<B, 2>, groups: Vec<TensorGroup<B>>) -> Tensor<B, 2> {
    let groups: Vec<RawGroup<B>> = groups
        .into_iter()
        .map(|Group { rows, weight }| Group {
            rows,
            weight: match weight {
                GroupWeight::Dense(weight) => GroupWeight::Dense(raw(weight)),
                GroupWeight::Packed(weight) => GroupWeight::Packed(weight),
            },
        })
        .collect();
    let [rows, inputs] = x.dims();
    let outputs = groups.first().expect("grouped_linear: expected at least one group").dims()[0];
    assert_eq!(
        groups.iter().map(|group| group.rows).sum::<usize>(),
        rows,
        "grouped_linear: the rows of x and of the groups"
    );
    for group in &groups {
        assert_eq!(group.dims(), [outputs, inputs], "grouped_linear: the weights of the groups");
    }
    typed(B::grouped_linear(raw(x), groups))
}

/// Calls `product` with the rows of each group, and concatenates the results.
fn each<B: FusedBackend>(
    x: FloatTensor<B>,
    groups: Vec<RawGroup<B>>,
    product: impl Fn(FloatTensor<B>, GroupWeight<FloatTensor<B>, PackedTensor<B>>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let x = typed::<B, 2>(x);
    let mut start = 0;
    let mut parts = Vec::with_capacity(groups.len());
    for Group { rows, weight } in groups.into_iter().filter(|group| group.rows > 0) {
        let part = product(raw(x.clone().narrow(0, start, rows)), weight);
        parts.push(typed::<B, 2>(part));
        start += rows;
    }
    raw(Tensor::cat(parts, 0))
}

/// The composed forward: a product for each group that has rows.
pub fn reference<B: FusedBackend>(x: FloatTensor<B>, groups: Vec<RawGroup<B>>) -> FloatTensor<B> {
    each::<B>(x, groups, |x, weight| match weight {
        GroupWeight::Dense(weight) => B::dense_linear(x, weight),
        GroupWeight::Packed(weight) => B::packed_linear(x, weight),
    })
}

/// The composed gradient for the input, group by group.
pub fn reference_backward_input<B: FusedBackend>(grad: FloatTensor<B>, groups: Vec<RawGroup<B>>) -> FloatTensor<B> {
    each::<B>(grad, groups, |grad, weight| match weight {
        GroupWeight::Dense(weight) => B::linear_backward_input(grad, weight),
        GroupWeight::Packed(weight) => B::packed_linear_backward_input(grad, weight),
    })
}
