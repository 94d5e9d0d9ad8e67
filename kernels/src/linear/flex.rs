//! The CPU kernel for the few rows of decoding, whose time is that of reading the weight once.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::reference;
use crate::flex::{all_f32, dims2, tensor, vector};

/// Most rows for which a matrix product gains nothing over dot products with the weight's rows.
pub(crate) const FEW_ROWS: usize = 2;

/// Outputs that a task computes.
const BLOCK: usize = 64;

/// [`forward`] with each weight.
pub(crate) fn each(x: FlexTensor, weights: Vec<FlexTensor>) -> Vec<FlexTensor> {
    weights.into_iter().map(|weight| forward(x.clone(), weight)).collect()
}

/// `x · Wᵀ`.
pub(crate) fn forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let [rows, inputs] = dims2(&x);
    if rows > FEW_ROWS || !all_f32(&[&x, &weight]) {
        return reference::<Flex>(x, weight);
    }
    let [outputs, _] = dims2(&weight);
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut y = vec![0.0; rows * outputs];
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
        let blocks = y.par_chunks_mut(BLOCK).zip(weight.par_chunks(BLOCK * inputs));
        // A task of fewer multiply-adds ends before another thread has woken.
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
