//! The CPU kernels.

use burn::tensor::DType;
use burn::tensor::ops::IntTensor;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{reference, reference_backward_input, reference_rows, rows_from};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, dims2, tensor, vector};
use crate::linear::flex::FEW_ROWS;
use crate::packed::{PackedTensor, Planes};

/// Outputs that a task computes.
const BLOCK: usize = 64;

/// Elements that a task dequantises.
const TASK: usize = 1 << 14;

/// Elements of a packed weight that are dequantised at a time: 4 MiB, which a product reads from the cache.
const SCRATCH: usize = 1 << 20;

/// The words of a packed weight, where the tensor has them as they are.
fn words(weight: &PackedTensor<Flex>) -> Option<&[u32]> {
    let words = &weight.words;
    let as_they_are = words.dtype() == DType::I32 && words.is_contiguous() && words.layout().start_offset() == 0;
    as_they_are.then(|| bytemuck::cast_slice(words.storage::<i32>()))
}

/// Dequantises a weight some rows at a time, by all threads, into one buffer, and hands them over in order, with the first's number.
fn each_block(planes: Planes, words: &[u32], mut each: impl FnMut(usize, Matrix)) {
    let [outputs, inputs] = planes.dims;
    let rows = (SCRATCH / inputs.max(1)).clamp(1, outputs.max(1));
    let mut scratch = vec![0.0; rows * inputs];
    for first in (0..outputs).step_by(rows) {
        let rows = rows.min(outputs - first);
        let values = &mut scratch[..rows * inputs];
        dequantize(planes, words, first, values);
        each(first, Matrix::new(values, rows, inputs));
    }
}

fn dequantize(planes: Planes, words: &[u32], first: usize, values: &mut [f32]) {
    let inputs = planes.dims[1];
    let rows = (TASK / inputs.max(1)).max(1);
    let tasks = values.par_chunks_mut((rows * inputs).max(1)).enumerate();
    tasks.for_each(|(task, values)| planes.rows_into(words, first + task * rows, values));
}

fn product(x: &FlexTensor, planes: Planes, words: &[u32]) -> FlexTensor {
    let [rows, inputs] = dims2(x);
    let outputs = planes.dims[0];
    let x = x.to_contiguous();
    let x = Matrix::new(x.storage(), rows, inputs);
    let mut y = vec![0.0; rows * outputs];
    if rows <= FEW_ROWS {
        few_rows(x, planes, words, &mut y);
    } else {
        each_block(planes, words, |first, weight| {
            let target = MatrixMut { data: &mut y[first..], row_stride: outputs };
            multiply(target, false, 1.0, x, weight.transposed(), true);
        });
    }
    tensor(y, [rows, outputs])
}

/// A task takes an output after the other: from the integers of its row, or from its weights, which stay in the nearest cache.
fn few_rows(x: Matrix, planes: Planes, words: &[u32], y: &mut [f32]) {
    let [outputs, inputs] = planes.dims;
    if x.rows == 0 || outputs == 0 {
        return;
    }
    let rows: Vec<(&[f32], Vec<f32>)> = x.data.chunks_exact(inputs).map(|x| (x, planes.group_sums(x))).collect();
    let mut by_output = vec![0.0; outputs * x.rows];
    by_output.par_chunks_mut(BLOCK * x.rows).enumerate().for_each(|(block, y)| {
        let (mut scales, mut weights) = (Vec::new(), vec![0.0; inputs]);
        for (at, y) in y.chunks_exact_mut(rows.len()).enumerate() {
            let output = block * BLOCK + at;
            if planes.has_dot() {
                y.iter_mut().zip(&rows).for_each(|(y, (x, sums))| *y = planes.row_dot(words, output, x, sums, &mut scales));
            } else {
                planes.rows_into(words, output, &mut weights);
                y.iter_mut().zip(&rows).for_each(|(y, (x, _))| *y = vector::dot(x, &weights));
            }
        }
    });
    for (output, sums) in by_output.chunks_exact(x.rows).enumerate() {
        sums.iter().enumerate().for_each(|(row, sum)| y[row * outputs + output] = *sum);
    }
}

/// The sum over outputs is taken block by block, in order.
fn product_input(grad: &FlexTensor, planes: Planes, words: &[u32]) -> FlexTensor {
    let [rows, outputs] = dims2(grad);
    let inputs = planes.dims[1];
    let grad = grad.to_contiguous();
    let grad = Matrix::new(grad.storage(), rows, outputs);
    let mut dx = vec![0.0; rows * inputs];
    each_block(planes, words, |first, weight| {
        let part = Matrix { offset: first, columns: weight.rows, ..grad };
        multiply(MatrixMut { data: &mut dx, row_stride: inputs }, first > 0, 1.0, part, weight, true);
    });
    tensor(dx, [rows, inputs])
}

/// `x · Wᵀ`.
pub(crate) fn forward(x: FlexTensor, weight: PackedTensor<Flex>) -> FlexTensor {
    match words(&weight).filter(|_| all_f32(&[&x])) {
        Some(words) => product(&x, weight.planes, words),
        None => reference::<Flex>(x, weight),
    }
}

/// `dy · W`.
pub(crate) fn backward_input(grad: FlexTensor, weight: PackedTensor<Flex>) -> FlexTensor {
    match words(&weight).filter(|_| all_f32(&[&grad])) {
        Some(words) => product_input(&grad, weight.planes, words),
        None => reference_backward_input::<Flex>(grad, weight),
    }
}

/// Rows of the weight.
pub(crate) fn rows(weight: PackedTensor<Flex>, rows: IntTensor<Flex>, dtype: DType) -> FlexTensor {
    match words(&weight) {
        Some(words) => rows_from::<Flex>(weight.planes, words, rows, dtype),
        None => reference_rows::<Flex>(weight, rows, dtype),
    }
}
