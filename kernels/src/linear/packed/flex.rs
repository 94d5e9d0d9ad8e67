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

/// A packed weight whose words are there as they are.
#[derive(Clone, Copy)]
pub(crate) struct PackedMatrix<'a> {
    planes: Planes,
    words: &'a [u32],
}

impl<'a> PackedMatrix<'a> {
    /// The words of a tensor, where it has them as they are.
    pub fn of(weight: &'a PackedTensor<Flex>) -> Option<Self> {
        let words = &weight.words;
        let as_they_are = words.dtype() == DType::I32 && words.is_contiguous() && words.layout().start_offset() == 0;
        as_they_are.then(|| Self { planes: weight.planes, words: bytemuck::cast_slice(words.storage::<i32>()) })
    }

    /// Outputs and inputs.
    pub fn dims(&self) -> [usize; 2] {
        self.planes.dims
    }

    /// `x · Wᵀ`, where the rows of `x` fill its slice, and those of the target are adjacent.
    pub fn few_or_many_into(self, x: Matrix, target: MatrixMut) {
        if x.rows <= FEW_ROWS {
            few_rows(x, self.planes, self.words, target.data);
        } else {
            self.forward_into(x, target);
        }
    }

    /// `x · Wᵀ`.
    pub fn forward_into(self, x: Matrix, target: MatrixMut) {
        let row_stride = target.row_stride;
        each_block(self, |first, weight| {
            let target = MatrixMut { data: &mut target.data[first..], row_stride };
            multiply(target, false, 1.0, x, weight.transposed(), true);
        });
    }

    /// `dy · W`. The sum over outputs is taken block by block, in order.
    pub fn backward_into(self, grad: Matrix, target: MatrixMut) {
        let row_stride = target.row_stride;
        each_block(self, |first, weight| {
            let part = Matrix { offset: grad.offset + first * grad.column_stride, columns: weight.rows, ..grad };
            multiply(MatrixMut { data: target.data, row_stride }, first > 0, 1.0, part, weight, true);
        });
    }
}

/// Dequantises a weight some rows at a time, by all threads, into one buffer, and hands them over in order, with the first's number.
fn each_block(PackedMatrix { planes, words }: PackedMatrix, mut each: impl FnMut(usize, Matrix)) {
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

fn product(x: &FlexTensor, weight: PackedMatrix) -> FlexTensor {
    let [rows, inputs] = dims2(x);
    let outputs = weight.planes.dims[0];
    let x = x.to_contiguous();
    let x = Matrix::new(x.storage(), rows, inputs);
    let mut y = vec![0.0; rows * outputs];
    weight.few_or_many_into(x, MatrixMut { data: &mut y, row_stride: outputs });
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

fn product_input(grad: &FlexTensor, weight: PackedMatrix) -> FlexTensor {
    let [rows, outputs] = dims2(grad);
    let inputs = weight.planes.dims[1];
    let grad = grad.to_contiguous();
    let mut dx = vec![0.0; rows * inputs];
    weight.backward_into(Matrix::new(grad.storage(), rows, outputs), MatrixMut { data: &mut dx, row_stride: inputs });
    tensor(dx, [rows, inputs])
}

/// `x · Wᵀ`.
pub(crate) fn forward(x: FlexTensor, weight: PackedTensor<Flex>) -> FlexTensor {
    match PackedMatrix::of(&weight).filter(|_| all_f32(&[&x])) {
        Some(weight) => product(&x, weight),
        None => reference::<Flex>(x, weight),
    }
}

/// `dy · W`.
pub(crate) fn backward_input(grad: FlexTensor, weight: PackedTensor<Flex>) -> FlexTensor {
    match PackedMatrix::of(&weight).filter(|_| all_f32(&[&grad])) {
        Some(weight) => product_input(&grad, weight),
        None => reference_backward_input::<Flex>(grad, weight),
    }
}

/// Rows of the weight.
pub(crate) fn rows(weight: PackedTensor<Flex>, rows: IntTensor<Flex>, dtype: DType) -> FlexTensor {
    match PackedMatrix::of(&weight) {
        Some(PackedMatrix { planes, words }) => rows_from::<Flex>(planes, words, rows, dtype),
        None => reference_rows::<Flex>(weight, rows, dtype),
    }
}
