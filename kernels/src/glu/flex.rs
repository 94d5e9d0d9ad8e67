//! The CPU kernel, of SiLU; other activations take the composed operation.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{Activation, reference, reference_backward};
use crate::flex::{all_f32, dims2, tensor, vector};

/// Elements of a task: few enough for the cache, and enough to be worth one.
const BLOCK: usize = 16 << 10;

/// `f(gate) · up`.
pub(crate) fn forward(gate: FlexTensor, up: FlexTensor, activation: Activation) -> FlexTensor {
    if activation != Activation::Silu || !all_f32(&[&gate, &up]) {
        return reference::<Flex>(gate, up, activation);
    }
    let [rows, features] = dims2(&gate);
    let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
    let (gate, up) = (gate.storage::<f32>(), up.storage::<f32>());
    let mut y = vec![0.0; gate.len()];
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
    y.par_chunks_mut(BLOCK).zip(inputs).for_each(|(y, (gate, up))| vector::swiglu(y, gate, up));
    tensor(y, [rows, features])
}

/// Gradients for `gate` and `up`.
pub(crate) fn backward(
    gate: FlexTensor,
    up: FlexTensor,
    grad: FlexTensor,
    activation: Activation,
) -> (FlexTensor, FlexTensor) {
    if activation != Activation::Silu || !all_f32(&[&gate, &up, &grad]) {
        return reference_backward::<Flex>(gate, up, grad, activation);
    }
    let [rows, features] = dims2(&gate);
    let (gate, up, grad) = (gate.to_contiguous(), up.to_contiguous(), grad.to_contiguous());
    let (gate, up, grad) = (gate.storage::<f32>(), up.storage::<f32>(), grad.storage::<f32>());
    let (mut d_gate, mut d_up) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(grad.par_chunks(BLOCK));
    let outputs = d_gate.par_chunks_mut(BLOCK).zip(d_up.par_chunks_mut(BLOCK));
    outputs.zip(inputs).for_each(|((d_gate, d_up), ((gate, up), grad))| {
        vector::swiglu_gradient(d_gate, d_up, gate, up, grad);
    });
    (tensor(d_gate, [rows, features]), tensor(d_up, [rows, features]))
}
