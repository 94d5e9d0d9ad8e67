//! The CPU kernels: for the few rows of decoding, where reading the weight once is all that counts, and for packed weights.

use burn::tensor::DType;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{dims2, tensor, vector};
use crate::packed::{PackedTensor, Planes};

/// Up to here a matrix product gains nothing over dot products with the weight's rows.
pub(crate) const FEW_ROWS: usize = 2;

/// Outputs a task computes.
const BLOCK: usize = 64;

pub(crate) fn few_rows(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let (rows, inputs) = dims2(x);
    let outputs = dims2(weight).0;
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut y = vec![0.0; rows * outputs];
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
        let blocks = y.par_chunks_mut(BLOCK).zip(weight.par_chunks(BLOCK * inputs));
        // A task of fewer multiply-adds than this ends before another thread has woken.
        let least = ((64 << 10) / (BLOCK * inputs)).max(1);
        blocks.with_min_len(least).for_each(|(y, weight)| {
            let mut quads = weight.chunks_exact(4 * inputs);
            let mut outputs = y.chunks_exact_mut(4);
            for (y, quad) in outputs.by_ref().zip(quads.by_ref()) {
                let (a, rest) = quad.split_at(inputs);
                let (b, rest) = rest.split_at(inputs);
                let (c, d) = rest.split_at(inputs);
                y.copy_from_slice(&vector::dot4(x, [a, b, c, d]));
            }
            for (y, row) in outputs.into_remainder().iter_mut().zip(quads.remainder().chunks_exact(inputs)) {
                *y = vector::dot(x, row);
            }
        });
    }
    tensor(y, [rows, outputs])
}

/// Elements of a packed weight that are dequantised at a time: 4 MiB, which a product reads from the cache.
const SCRATCH: usize = 1 << 20;

/// The words of a packed weight, where the tensor has them as they are.
pub(crate) fn words(weight: &PackedTensor<Flex>) -> Option<&[u32]> {
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
    let rows = (BLOCK * BLOCK * 4 / inputs.max(1)).max(1);
    let tasks = values.par_chunks_mut((rows * inputs).max(1)).enumerate();
    tasks.for_each(|(task, values)| planes.rows_into(words, first + task * rows, values));
}

/// `x · Wᵀ`.
pub(crate) fn packed_forward(x: &FlexTensor, planes: Planes, words: &[u32]) -> FlexTensor {
    let (rows, inputs) = dims2(x);
    let outputs = planes.dims[0];
    let x = x.to_contiguous();
    let x = Matrix::new(x.storage(), rows, inputs);
    let mut y = vec![0.0; rows * outputs];
    if rows <= FEW_ROWS {
        packed_few_rows(x, planes, words, &mut y);
    } else {
        each_block(planes, words, |first, weight| {
            let target = MatrixMut { data: &mut y[first..], row_stride: outputs };
            multiply(target, false, 1.0, x, weight.transposed(), true);
        });
    }
    tensor(y, [rows, outputs])
}

/// A task takes an output after the other: from the integers of its row, or from its weights, which stay in the nearest cache.
fn packed_few_rows(x: Matrix, planes: Planes, words: &[u32], y: &mut [f32]) {
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

/// `dy · W`, the sum over outputs taken block by block, in order.
pub(crate) fn packed_backward_input(grad: &FlexTensor, planes: Planes, words: &[u32]) -> FlexTensor {
    let (rows, outputs) = dims2(grad);
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

/// Some rows of a packed weight, one after the other.
pub(crate) fn packed_rows(planes: Planes, words: &[u32], rows: &[usize]) -> Vec<f32> {
    let [outputs, inputs] = planes.dims;
    let mut values = vec![0.0; rows.len() * inputs];
    values.par_chunks_mut(inputs.max(1)).zip(rows).for_each(|(values, row)| {
        assert!(*row < outputs, "packed_rows: no row {row} of {outputs}");
        planes.rows_into(words, *row, values);
    });
    values
}
