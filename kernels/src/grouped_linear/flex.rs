//! The CPU kernel: groups are tasks, which write their rows of one result.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{GroupWeight, RawGroup, reference, reference_backward_input};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, dims2, tensor};
use crate::linear::packed::flex::PackedMatrix;

/// A weight where it lies.
enum Weight<'a> {
    Dense(Matrix<'a>),
    Packed(PackedMatrix<'a>),
}

impl<'a> Weight<'a> {
    /// The weight of a group; `None` where it is not f32, or does not lie as it should.
    fn of(group: &'a RawGroup<Flex>) -> Option<Self> {
        match &group.weight {
            GroupWeight::Dense(weight) => {
                let [outputs, inputs] = dims2(weight);
                let start = weight.layout().start_offset();
                let lies_right = all_f32(&[weight]) && weight.is_contiguous();
                let own = lies_right.then(|| weight.storage().get(start..start + outputs * inputs)).flatten()?;
                Some(Self::Dense(Matrix::new(own, outputs, inputs)))
            }
            GroupWeight::Packed(weight) => PackedMatrix::of(weight).map(Self::Packed),
        }
    }
}

/// Calls `product` with the rows of each group and those of the result, by all threads.
fn each(
    x: &FlexTensor,
    groups: &[RawGroup<Flex>],
    columns: usize,
    product: impl Fn(Matrix<'_>, &Weight<'_>, MatrixMut<'_>) + Sync,
) -> Option<FlexTensor> {
    if !all_f32(&[x]) {
        return None;
    }
    let weights: Vec<(usize, Weight)> =
        groups.iter().map(|group| Some((group.rows, Weight::of(group)?))).collect::<Option<_>>()?;
    let [rows, inner] = dims2(x);
    let x = x.to_contiguous();
    let x = x.storage::<f32>();
    let mut y = vec![0.0; rows * columns];
    let (mut rest, mut start) = (y.as_mut_slice(), 0);
    let mut tasks = Vec::with_capacity(weights.len());
    for (count, weight) in &weights {
        let (part, others) = rest.split_at_mut(count * columns);
        tasks.push((Matrix::new(&x[start * inner..(start + count) * inner], *count, inner), weight, part));
        (rest, start) = (others, start + count);
    }
    tasks.into_par_iter().filter(|(x, ..)| x.rows > 0).for_each(|(x, weight, part)| {
        product(x, weight, MatrixMut { data: part, row_stride: columns });
    });
    Some(tensor(y, [rows, columns]))
}

/// `x_g · W_gᵀ`.
pub(crate) fn forward(x: FlexTensor, groups: Vec<RawGroup<Flex>>) -> FlexTensor {
    let outputs = groups.first().map_or(0, |group| group.dims()[0]);
    let y = each(&x, &groups, outputs, |x, weight, target| match weight {
        Weight::Dense(weight) => multiply(target, false, 1.0, x, weight.transposed(), true),
        Weight::Packed(weight) => weight.few_or_many_into(x, target),
    });
    y.unwrap_or_else(|| reference::<Flex>(x, groups))
}

/// `dy_g · W_g`.
pub(crate) fn backward_input(grad: FlexTensor, groups: Vec<RawGroup<Flex>>) -> FlexTensor {
    let inputs = groups.first().map_or(0, |group| group.dims()[1]);
    let dx = each(&grad, &groups, inputs, |grad, weight, target| match weight {
        Weight::Dense(weight) => multiply(target, false, 1.0, grad, *weight, true),
        Weight::Packed(weight) => weight.backward_into(grad, target),
    });
    dx.unwrap_or_else(|| reference_backward_input::<Flex>(grad, groups))
}
