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
    // Written over gate and up, which are copied first if anything else holds them.
    let [mut gate, mut up] = [gate, up].map(|x| x.to_contiguous());
    let grad = grad.to_contiguous();
    let both = gate.storage_mut::<f32>().par_chunks_mut(BLOCK).zip(up.storage_mut::<f32>().par_chunks_mut(BLOCK));
    let grad = grad.storage::<f32>().par_chunks(BLOCK);
    both.zip(grad).for_each(|((gate, up), grad)| vector::swiglu_gradient(gate, up, grad));
    (gate, up)
}
