//! The CPU kernel: one pass for the statistic, one for the row.

use burn::tensor::ops::FloatTensorOps;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{reference, reference_backward};
use crate::flex::{all_f32, dims2, tensor, vector};

fn inverse_rms(row: &[f32], epsilon: f64) -> f32 {
    let mean = f64::from(vector::dot(row, row)) / row.len() as f64;
    (1.0 / (mean + epsilon).sqrt()) as f32
}

/// The norm of `x`.
pub(crate) fn forward(x: FlexTensor, weight: FlexTensor, epsilon: f64) -> FlexTensor {
    if !all_f32(&[&x, &weight]) {
        return reference::<Flex>(x, weight, epsilon);
    }
    let [rows, features] = dims2(&x);
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut y = vec![0.0; rows * features];
    y.par_chunks_mut(features).zip(x.par_chunks(features)).with_min_len(32).for_each(|(y, x)| {
        vector::weighted(y, x, weight, inverse_rms(x, epsilon));
    });
    tensor(y, [rows, features])
}

/// The gradient for `x`, plus `residual` where there is one; the composed operation computes that of a weight.
pub(crate) fn backward(
    x: FlexTensor,
    weight: FlexTensor,
    grad: FlexTensor,
    residual: Option<FlexTensor>,
    epsilon: f64,
    weight_gradient: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    if weight_gradient || !all_f32(&[&x, &weight, &grad]) {
        return reference_backward::<Flex>(x, weight, grad, residual, epsilon, weight_gradient);
    }
    let dx = input_gradient(&x, &weight, &grad, epsilon);
    let dx = match residual {
        Some(residual) => <Flex as FloatTensorOps<Flex>>::float_add(dx, residual),
        None => dx,
    };
    (dx, None)
}

fn input_gradient(x: &FlexTensor, weight: &FlexTensor, grad: &FlexTensor, epsilon: f64) -> FlexTensor {
    let [rows, features] = dims2(x);
    let (x, weight, grad) = (x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
    let (x, weight, grad) = (x.storage::<f32>(), weight.storage::<f32>(), grad.storage::<f32>());
    let mut dx = vec![0.0; rows * features];
    let inputs = x.par_chunks(features).zip(grad.par_chunks(features));
    dx.par_chunks_mut(features).zip(inputs).with_min_len(32).for_each(|(dx, (x, grad))| {
        let r = inverse_rms(x, epsilon);
        let c = vector::dot3(x, weight, grad) * r * r / features as f32;
        vector::norm_gradient(dx, x, weight, grad, r, c);
    });
    tensor(dx, [rows, features])
}
