//! The CPU kernel: the low-rank products are added into the base product in place.

use burn_flex::{Flex, FlexTensor};

use super::{LoraGradients, LoraSaved, reference, reference_backward, reference_hidden, reference_on};
use crate::FusedBackend;
use crate::dropout::{self, Dropout};
use crate::flex::matrix::{Matrix, MatrixMut, multiply, product};
use crate::flex::{all_f32, dims2, tensor};
use crate::linear;
use crate::packed::PackedTensor;

/// The result, and `scale · dropout(x) Aᵀ`.
pub(crate) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    lora_a: FlexTensor,
    lora_b: FlexTensor,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FlexTensor, FlexTensor) {
    if dims2(&x)[0] <= linear::flex::FEW_ROWS || !all_f32(&[&x, &weight, &lora_a, &lora_b]) {
        return reference::<Flex>(x, weight, lora_a, lora_b, scale, dropout);
    }
    let dropped = dropout.map(|dropout| dropout::flex::forward(x.clone(), dropout));
    let owned = [&x, &weight, &lora_a, &lora_b].map(FlexTensor::to_contiguous);
    let [x, weight, lora_a, lora_b] = owned.each_ref().map(rows_of);
    let mut y = product(x, weight.transposed(), 1.0);
    let seen = dropped.as_ref().map_or(x, rows_of);
    let hidden = product(seen, lora_a.transposed(), scale as f32);
    let narrow = Matrix::new(&hidden, x.rows, lora_a.rows);
    let outputs = weight.rows;
    multiply(MatrixMut { data: &mut y, row_stride: outputs }, true, 1.0, narrow, lora_b.transposed(), true);
    (tensor(y, [x.rows, outputs]), tensor(hidden, [x.rows, lora_a.rows]))
}

/// [`forward`] on a packed weight.
pub(crate) fn packed_forward(
    x: FlexTensor,
    weight: PackedTensor<Flex>,
    lora_a: FlexTensor,
    lora_b: FlexTensor,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FlexTensor, FlexTensor) {
    let hidden = hidden(x.clone(), lora_a, scale, dropout);
    reference_on::<Flex>(x, hidden, lora_b, |x| Flex::packed_linear(x, weight))
}

/// `scale · dropout(x) Aᵀ`.
pub(crate) fn hidden(x: FlexTensor, lora_a: FlexTensor, scale: f64, dropout: Option<Dropout>) -> FlexTensor {
    if dims2(&x)[0] <= linear::flex::FEW_ROWS || !all_f32(&[&x, &lora_a]) {
        return reference_hidden::<Flex>(x, lora_a, scale, dropout);
    }
    let seen = match dropout {
        Some(dropout) => dropout::flex::forward(x, dropout),
        None => x,
    };
    let owned = [&seen, &lora_a].map(FlexTensor::to_contiguous);
    let [seen, lora_a] = owned.each_ref().map(rows_of);
    tensor(product(seen, lora_a.transposed(), scale as f32), [seen.rows, lora_a.rows])
}

/// Gradients for `x` (where asked for), `A` and `B`.
pub(crate) fn backward(saved: LoraSaved<Flex>, grad: FlexTensor, input_gradient: bool) -> LoraGradients<Flex> {
    let tensors = [&saved.x, &saved.weight, &saved.lora_a, &saved.lora_b, &saved.hidden, &grad];
    if !all_f32(&tensors) {
        return reference_backward::<Flex>(saved, grad, input_gradient);
    }
    let dropped = saved.dropout.map(|dropout| dropout::flex::forward(saved.x.clone(), dropout));
    let owned = tensors.map(FlexTensor::to_contiguous);
    let [x, weight, factor_a, factor_b, hidden, grad] = owned.each_ref().map(rows_of);
    let rank = factor_a.rows;
    let scaled = product(grad, factor_b, saved.scale as f32);
    let scaled = Matrix::new(&scaled, grad.rows, rank);
    // In the tall products the rank comes first, so that gemm packs their short side.
    let seen = dropped.as_ref().map_or(x, rows_of);
    let lora_a = tensor(product(scaled.transposed(), seen, 1.0), [rank, x.columns]);
    let lora_b = tensor(product(grad.transposed(), hidden, 1.0), [grad.columns, rank]);
    let x = input_gradient.then(|| {
        let mut dx = product(grad, weight, 1.0);
        match saved.dropout {
            Some(dropout) => dropout::flex::add(&mut dx, &product(scaled, factor_a, 1.0), dropout),
            None => multiply(MatrixMut { data: &mut dx, row_stride: x.columns }, true, 1.0, scaled, factor_a, true),
        }
        tensor(dx, [x.rows, x.columns])
    });
    LoraGradients { x, lora_a, lora_b }
}

/// A contiguous rank-2 tensor as a matrix.
fn rows_of(tensor: &FlexTensor) -> Matrix<'_> {
    let [rows, columns] = dims2(tensor);
    Matrix::new(tensor.storage(), rows, columns)
}
