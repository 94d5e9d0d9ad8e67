//! The optimizer's update with moments in eight bits.

use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::adamw8bit::reference;
use burnish_kernels::packed::codebook::{Codebook, DYNAMIC_BLOCK, SIGNED, UNSIGNED};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{AdamW8bitTensors, AdamW8bitUpdate, AdamWStep, FusedBackend, Moment8bit};

use crate::sample::{numbers, raw, typed};

const STEP: AdamWStep = AdamWStep {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 1,
    gradient_factor: 0.5,
    max_norm: 0.0,
};

/// Rounding of the terms of a moment and of its scale, relative to them: sixteen units in the last place.
const ROUNDING: f64 = 16.0 / (1 << 23) as f64;

/// A parameter and its moments on the host.
#[derive(Clone, PartialEq, Debug)]
struct State {
    parameter: Vec<f32>,
    /// Words and scales of each moment.
    moments: [(Vec<i32>, Vec<f32>); 2],
}

impl State {
    fn fresh(count: usize) -> Self {
        let moment = || (vec![0; count.div_ceil(4)], vec![0.0; count.div_ceil(DYNAMIC_BLOCK)]);
        Self { parameter: numbers(count, 1, 1.0), moments: [moment(), moment()] }
    }

    fn on<B: Backend>(&self) -> AdamW8bitUpdate<B> {
        let [first, second] =
            self.moments.clone().map(|(words, absmax)| Moment8bit::new(words, absmax, &Default::default()));
        AdamW8bitUpdate { parameter: raw(tensor::<B>(&self.parameter)), first, second }
    }

    fn of<B: Backend>(update: AdamW8bitUpdate<B>) -> Self {
        let AdamW8bitUpdate { parameter, first, second } = update;
        let parameter = typed::<B, 1>(parameter).into_data().iter::<f32>().collect();
        Self { parameter, moments: [first, second].map(|moment| moment.to_host()) }
    }

    fn codes(&self, moment: usize) -> Vec<u8> {
        self.moments[moment].0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

fn tensor<B: Backend>(values: &[f32]) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Default::default())
}

fn inputs<B: Backend>(state: AdamW8bitUpdate<B>, gradient: &[f32], squares: Option<f32>) -> AdamW8bitTensors<B> {
    let AdamW8bitUpdate { parameter, first, second } = state;
    let squares = squares.map(|squares| raw(tensor::<B>(&[squares])));
    AdamW8bitTensors { parameter, gradient: raw(tensor::<B>(gradient)), first, second, squares }
}

/// The two terms of a new moment, in f64.
fn terms(moment: usize, old: f32, gradient: f64, step: AdamWStep) -> [f64; 2] {
    let (beta, power) = [(step.beta1, gradient), (step.beta2, gradient * gradient)][moment];
    [beta * f64::from(old), (1.0 - beta) * power]
}

/// Scales are those of the reference but for rounding. So are codes, except where the exact value is so near to the bound between
/// two neighbouring ones that rounding decides; no more than one in five hundred is.
fn check(found: &State, expected: &State, old: &State, gradient: &[f64], step: AdamWStep) {
    Tolerance::of(DType::F32).check("parameter", &found.parameter, &expected.parameter).unwrap();
    for (index, map) in [&*SIGNED, &*UNSIGNED].into_iter().enumerate() {
        let absmax = &expected.moments[index].1;
        for (found, expected) in found.moments[index].1.iter().zip(absmax) {
            let difference = f64::from((found - expected).abs());
            assert!(difference <= ROUNDING * f64::from(*expected), "scale {found}, expected {expected}");
        }
        let (found, expected, before) = (found.codes(index), expected.codes(index), old.codes(index));
        assert_eq!(found[gradient.len()..], expected[gradient.len()..], "what fills up the last word");
        let mut differing = 0;
        for at in (0..gradient.len()).filter(|at| found[*at] != expected[*at]) {
            let (old, scale) = (old.moments[index].1[at / DYNAMIC_BLOCK], f64::from(absmax[at / DYNAMIC_BLOCK]));
            let terms = terms(index, Codebook::values(map)[usize::from(before[at])] * old, gradient[at], step);
            let near = ROUNDING * (terms[0].abs() + terms[1].abs()) / scale;
            let value = (terms[0] + terms[1]) / scale;
            let bound = f64::from(map.bounds()[usize::from(found[at].min(expected[at]))]);
            assert_eq!(found[at].abs_diff(expected[at]), 1, "codes of {value}");
            assert!((value - bound).abs() <= near, "code {}, expected {} for {value}", found[at], expected[at]);
            differing += 1;
        }
        assert!(differing <= 1 + gradient.len() / 500, "{differing} of {} codes differ", gradient.len());
    }
}

pub fn adamw8bit<B: FusedBackend>(dtype: DType) {
    if dtype != DType::F32 {
        return;
    }
    let clipped = AdamWStep { max_norm: 1.0, ..STEP };
    // Squared norms: none, one that needs no clipping, one that does.
    let cases = [(STEP, None), (STEP, Some(9.0)), (clipped, Some(1.0)), (clipped, Some(9.0))];
    for (count, (step, squares)) in [1, 3, 255, 256, 257, 4097, 30_000, 30_001].into_iter().zip(cases.into_iter().cycle()) {
        let mut state = State::fresh(count);
        for number in 1..=4 {
            let step = AdamWStep { step: number, ..step };
            // Of many magnitudes, as gradients are, and none at all in one block.
            let mut gradient = numbers(count, number as u32 + 1, 1.0);
            for (at, value) in gradient.iter_mut().enumerate() {
                *value *= [1.0, 1e-2, 1e-4, 1e-6][at % 4] * f32::from(at / DYNAMIC_BLOCK != 1);
            }
            let clip = squares
                .filter(|_| step.max_norm > 0.0)
                .map_or(1.0, |squares| (step.max_norm / (f64::from(squares).sqrt() * step.gradient_factor + 1e-6)).min(1.0));
            let scaled: Vec<f64> = gradient.iter().map(|value| f64::from(*value) * step.gradient_factor * clip).collect();
            let expected = State::of(reference::<Flex>(inputs(state.on(), &gradient, squares), step));
            // In place, and where something else holds parameter and moments, which must not change there.
            let held = state.on::<B>();
            for tensors in [inputs(state.on::<B>(), &gradient, squares), inputs(held.clone(), &gradient, squares)] {
                let found = State::of(burnish_kernels::adamw8bit(tensors, step));
                check(&found, &expected, &state, &scaled, step);
            }
            assert_eq!(State::of(held), state, "an update changed tensors that something else holds");
            for squares in [f32::INFINITY, f32::NAN] {
                let tensors = inputs(state.on::<B>(), &gradient, Some(squares));
                assert_eq!(State::of(burnish_kernels::adamw8bit(tensors, step)), state, "a skipped update");
            }
            // From the reference's state, so that codes which rounding decides do not add up.
            state = expected;
        }
    }
}
