//! The CPU kernel.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{dims2, tensor, vector};

/// Elements a task works on; small enough for the cache, large enough to be worth a task.
const BLOCK: usize = 16 << 10;

pub(crate) fn forward(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let (rows, features) = dims2(gate);
    let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
    let (gate, up) = (gate.storage::<f32>(), up.storage::<f32>());
    let mut y = vec![0.0; gate.len()];
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
    y.par_chunks_mut(BLOCK).zip(inputs).for_each(|(y, (gate, up))| vector::swiglu(y, gate, up));
    tensor(y, [rows, features])
}

pub(crate) fn backward(gate: &FlexTensor, up: &FlexTensor, grad: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let (rows, features) = dims2(gate);
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
