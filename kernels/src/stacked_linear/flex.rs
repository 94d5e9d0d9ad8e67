//! The CPU kernels: groups are tasks, which write to one result.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{GroupRows, groups, reference_backward_weight};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, dims2, tensor};
use crate::grouped_linear;

/// `x_g · W_gᵀ`.
pub(crate) fn forward(x: FlexTensor, weight: FlexTensor, rows: GroupRows) -> FlexTensor {
    grouped_linear::flex::forward(x, groups::<Flex>(weight, &rows))
}

/// `dy_g · W_g`.
pub(crate) fn backward_input(grad: FlexTensor, weight: FlexTensor, rows: GroupRows) -> FlexTensor {
    grouped_linear::flex::backward_input(grad, groups::<Flex>(weight, &rows))
}

/// `dy_gᵀ · x_g` for each group, below that of the one before it.
pub(crate) fn backward_weight(x: FlexTensor, grad: FlexTensor, rows: GroupRows) -> FlexTensor {
    if !all_f32(&[&x, &grad]) {
        return reference_backward_weight::<Flex>(x, grad, rows);
    }
    let ([_, inputs], [_, outputs]) = (dims2(&x), dims2(&grad));
    let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
    let (x, grad) = (x.storage::<f32>(), grad.storage::<f32>());
    let mut result = vec![0.0; rows.len() * outputs * inputs];
    let starts = rows.iter().scan(0, |next, count| {
        *next += count;
        Some(*next - count)
    });
    let parts = result.chunks_exact_mut((outputs * inputs).max(1));
    let tasks: Vec<_> = parts.zip(starts.zip(rows.iter())).filter(|(_, (_, count))| **count > 0).collect();
    tasks.into_par_iter().for_each(|(part, (start, count))| {
        let of = |values, columns| Matrix::new(values, *count, columns);
        let grad = of(&grad[start * outputs..(start + count) * outputs], outputs);
        let x = of(&x[start * inputs..(start + count) * inputs], inputs);
        multiply(MatrixMut { data: part, row_stride: inputs }, false, 1.0, grad.transposed(), x, true);
    });
    tensor(result, [rows.len() * outputs, inputs])
}
