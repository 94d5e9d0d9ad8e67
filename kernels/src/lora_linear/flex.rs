//! The CPU kernel: the low-rank products are added into the base product in place.

use burn_flex::FlexTensor;

use crate::flex::matrix::{Matrix, MatrixMut, multiply, product};
use crate::flex::tensor;

pub(crate) fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    lora_a: &FlexTensor,
    lora_b: &FlexTensor,
    scale: f64,
) -> FlexTensor {
    let owned = [x, weight, lora_a, lora_b].map(FlexTensor::to_contiguous);
    let [x, weight, lora_a, lora_b] = owned.each_ref().map(rows_of);
    let mut y = product(x, weight.transposed(), 1.0);
    let hidden = product(x, lora_a.transposed(), 1.0);
    let hidden = Matrix::new(&hidden, x.rows, lora_a.rows);
    let outputs = weight.rows;
    multiply(MatrixMut { data: &mut y, row_stride: outputs }, true, scale as f32, hidden, lora_b.transposed(), true);
    tensor(y, [x.rows, outputs])
}

pub(crate) fn backward(
    x: &FlexTensor,
    weight: &FlexTensor,
    lora_a: &FlexTensor,
    lora_b: &FlexTensor,
    grad: &FlexTensor,
    scale: f64,
    input_gradient: bool,
) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
    let owned = [x, weight, lora_a, lora_b, grad].map(FlexTensor::to_contiguous);
    let [x, weight, lora_a, lora_b, grad] = owned.each_ref().map(rows_of);
    let rank = lora_a.rows;
    let scale = scale as f32;
    let scaled = product(grad, lora_b, scale);
    let scaled = Matrix::new(&scaled, grad.rows, rank);
    let hidden = product(x, lora_a.transposed(), 1.0);
    let hidden = Matrix::new(&hidden, x.rows, rank);
    // The tall products are taken rank-first, so that their short side is the one gemm packs.
    let d_a = tensor(product(scaled.transposed(), x, 1.0), [rank, x.columns]);
    let d_b = tensor(product(grad.transposed(), hidden, scale), [grad.columns, rank]);
    let dx = input_gradient.then(|| {
        let mut dx = product(grad, weight, 1.0);
        multiply(MatrixMut { data: &mut dx, row_stride: x.columns }, true, 1.0, scaled, lora_a, true);
        tensor(dx, [x.rows, x.columns])
    });
    (dx, d_a, d_b)
}

/// A contiguous rank-2 tensor as a matrix.
fn rows_of(tensor: &FlexTensor) -> Matrix<'_> {
    let (rows, columns) = crate::flex::dims2(tensor);
    Matrix::new(tensor.storage(), rows, columns)
}
