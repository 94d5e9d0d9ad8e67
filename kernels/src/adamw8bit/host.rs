//! The update over slices, a task some blocks.

use rayon::prelude::*;

use super::CODES;
use crate::adamw::{AdamWStep, CLIP_EPSILON};
use crate::packed::codebook::{Codebook, DYNAMIC_BLOCK, SIGNED, UNSIGNED};

/// Blocks that a task updates at least.
const TASK: usize = 16;

/// See [`super::Moment8bit`].
pub(super) struct Moment<'a> {
    pub words: &'a mut [i32],
    pub absmax: &'a mut [f32],
}

/// What does not change within an update.
struct Numbers {
    factor: f32,
    beta: [f32; 2],
    complement: [f32; 2],
    /// Square root of the second moment's bias correction.
    root: f32,
    epsilon: f32,
    step_size: f32,
    kept: f32,
}

impl Numbers {
    fn new(squares: Option<f32>, step: AdamWStep) -> Self {
        let count = i32::try_from(step.step).unwrap_or(i32::MAX);
        let factor = step.gradient_factor as f32;
        let clip = match squares {
            Some(squares) if step.max_norm > 0.0 => {
                (step.max_norm as f32 / (squares.sqrt() * factor + CLIP_EPSILON as f32)).min(1.0)
            }
            _ => 1.0,
        };
        Self {
            factor: factor * clip,
            beta: [step.beta1 as f32, step.beta2 as f32],
            complement: [(1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32],
            root: (1.0 - step.beta2.powi(count)).sqrt() as f32,
            epsilon: step.epsilon as f32,
            step_size: (step.learning_rate / (1.0 - step.beta1.powi(count))) as f32,
            kept: (1.0 - step.learning_rate * step.weight_decay) as f32,
        }
    }
}

/// Updates parameter and moments in place; changes nothing where `squares` is not finite.
pub(super) fn update(
    parameter: &mut [f32],
    gradient: &[f32],
    [first, second]: [Moment; 2],
    squares: Option<f32>,
    step: AdamWStep,
) {
    if squares.is_some_and(|squares| !squares.is_finite()) {
        return;
    }
    let numbers = Numbers::new(squares, step);
    let words = DYNAMIC_BLOCK / CODES;
    let first = first.words.par_chunks_mut(words).zip(first.absmax);
    let second = second.words.par_chunks_mut(words).zip(second.absmax);
    let blocks = parameter.par_chunks_mut(DYNAMIC_BLOCK).zip(gradient.par_chunks(DYNAMIC_BLOCK)).zip(first).zip(second);
    blocks.with_min_len(TASK).for_each(|(((parameter, gradient), first), second)| {
        let (mut mean, mut square) = ([0.0; DYNAMIC_BLOCK], [0.0; DYNAMIC_BLOCK]);
        let count = parameter.len();
        let (mean, square) = (&mut mean[..count], &mut square[..count]);
        unpack(&SIGNED, first.0, *first.1, mean);
        unpack(&UNSIGNED, second.0, *second.1, square);
        for (((parameter, gradient), mean), square) in
            parameter.iter_mut().zip(gradient).zip(mean.iter_mut()).zip(square.iter_mut())
        {
            let gradient = gradient * numbers.factor;
            *mean = *mean * numbers.beta[0] + gradient * numbers.complement[0];
            *square = *square * numbers.beta[1] + gradient * gradient * numbers.complement[1];
            let denominator = square.sqrt() / numbers.root + numbers.epsilon;
            *parameter = *parameter * numbers.kept - *mean / denominator * numbers.step_size;
        }
        *first.1 = pack(&SIGNED, mean, first.0);
        *second.1 = pack(&UNSIGNED, square, second.0);
    });
}

/// The values of a block.
fn unpack(map: &Codebook, words: &[i32], absmax: f32, values: &mut [f32]) {
    for (values, word) in values.chunks_mut(CODES).zip(words) {
        map.dequantize(&word.to_le_bytes()[..values.len()], absmax, values);
    }
}

/// The codes of a block; returns its scale.
fn pack(map: &Codebook, values: &[f32], words: &mut [i32]) -> f32 {
    let mut codes = [0; DYNAMIC_BLOCK];
    let absmax = map.quantize(values, &mut codes[..values.len()], Codebook::nearest);
    for (word, codes) in words.iter_mut().zip(codes.as_chunks().0) {
        *word = i32::from_le_bytes(*codes);
    }
    absmax
}
