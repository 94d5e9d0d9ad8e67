//! Moments in eight bits against bitsandbytes (`make_quantized.py`) and against the update in f32.
#![allow(clippy::unwrap_used)]

use burn::backend::Flex;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burnish_kernels::{AdamW8bitTensors, AdamW8bitUpdate, AdamWStep, AdamWTensors, Moment8bit, adamw, adamw8bit};
use safetensors::SafeTensors;

mod numbers;
use numbers::numbers;

type Update = fn(AdamW8bitTensors<Flex>, AdamWStep) -> AdamW8bitUpdate<Flex>;

/// By the CPU's kernel, and as any other backend takes it.
const UPDATES: [Update; 2] = [adamw8bit::<Flex>, burnish_kernels::adamw8bit::reference::<Flex>];

const STEP: AdamWStep = AdamWStep {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 1,
    gradient_factor: 1.0,
    max_norm: 0.0,
};

fn tensor(values: &[f32]) -> FloatTensor<Flex> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::<Flex, 1>::from_data(data, &Default::default()).into_primitive().tensor()
}

fn values(tensor: &FloatTensor<Flex>) -> Vec<f32> {
    Tensor::<Flex, 1>::from_primitive(TensorPrimitive::Float(tensor.clone())).into_data().to_vec().unwrap()
}

fn start(parameter: &[f32]) -> AdamW8bitUpdate<Flex> {
    let zeros = || Moment8bit::zeros(parameter.len(), &Default::default());
    AdamW8bitUpdate { parameter: tensor(parameter), first: zeros(), second: zeros() }
}

fn take(
    update: Update,
    state: AdamW8bitUpdate<Flex>,
    gradient: &[f32],
    squares: Option<f32>,
    step: AdamWStep,
) -> AdamW8bitUpdate<Flex> {
    let AdamW8bitUpdate { parameter, first, second } = state;
    let squares = squares.map(|squares| tensor(&[squares]));
    update(AdamW8bitTensors { parameter, gradient: tensor(gradient), first, second, squares }, step)
}

fn codes(moment: &Moment8bit<Flex>, count: usize) -> Vec<u8> {
    moment.to_host().0.into_iter().flat_map(i32::to_le_bytes).take(count).collect()
}

/// The bits of everything that an update leaves: parameter, and codes and scales of both moments.
fn bits(state: &AdamW8bitUpdate<Flex>) -> [Vec<u32>; 5] {
    let f32s = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    let words = |codes: Vec<i32>| codes.into_iter().map(i32::cast_unsigned).collect();
    let ((first, first_scales), (second, second_scales)) = (state.first.to_host(), state.second.to_host());
    [f32s(values(&state.parameter)), words(first), f32s(first_scales), words(second), f32s(second_scales)]
}

/// The same codes; scales to the last bits, since bitsandbytes fuses products and sums.
fn check_moment(what: &str, file: &SafeTensors, moment: &Moment8bit<Flex>, count: usize) {
    assert_eq!(codes(moment, count), file.tensor(&format!("{what}.codes")).unwrap().data(), "{what}");
    let scales = file.tensor(&format!("{what}.absmax")).unwrap().data().to_vec();
    for (found, expected) in moment.to_host().1.iter().zip(scales.as_chunks().0) {
        let expected = f32::from_le_bytes(*expected);
        assert!((found - expected).abs() <= 1e-6 * expected, "{what}: {found} is not {expected}");
    }
}

#[test]
fn three_updates_are_those_of_bitsandbytes() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/quantized.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let count = 1000;
    for update in UPDATES {
        let mut state = start(&numbers(4, count));
        for step in 1..=3 {
            state = take(update, state, &numbers(4 + step, count), None, AdamWStep { step: step as usize, ..STEP });
            let key = format!("adamw.{step}");
            check_moment(&format!("{key}.first"), &file, &state.first, count);
            check_moment(&format!("{key}.second"), &file, &state.second, count);
            let expected = file.tensor(&format!("{key}.parameter")).unwrap().data().to_vec();
            for (at, (found, expected)) in values(&state.parameter).iter().zip(expected.as_chunks().0).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                assert!((found - expected).abs() <= 2e-6, "{key}.parameter[{at}]: {found} is not {expected}");
            }
        }
    }
}

#[test]
fn the_cpu_takes_the_update_of_any_backend_to_the_bit() {
    for count in [1, 3, 255, 256, 257, 5000] {
        let [mut kernel, mut reference] = [start(&numbers(20, count)), start(&numbers(20, count))];
        for step in 1..=4 {
            let gradient = numbers(20 + step, count);
            let squares = gradient.iter().map(|value| value * value).sum();
            let step = AdamWStep { step: step as usize, gradient_factor: 0.5, max_norm: 0.1, ..STEP };
            kernel = take(UPDATES[0], kernel, &gradient, Some(squares), step);
            reference = take(UPDATES[1], reference, &gradient, Some(squares), step);
            assert_eq!(bits(&kernel), bits(&reference), "{count} elements");
        }
    }
}

#[test]
fn a_first_update_is_that_of_f32_and_clips_as_it_does() {
    let (parameter, gradient) = (numbers(30, 700), numbers(31, 700));
    let squares: f32 = gradient.iter().map(|value| value * value).sum();
    for (squares, max_norm) in [(None, 0.0), (Some(squares), 0.01), (Some(squares), 1e6)] {
        let step = AdamWStep { max_norm, gradient_factor: 0.25, ..STEP };
        let zeros = || tensor(&vec![0.0; 700]);
        let f32s = AdamWTensors {
            parameter: tensor(&parameter),
            gradient: tensor(&gradient),
            first: zeros(),
            second: zeros(),
            squares: squares.map(|squares| tensor(&[squares])),
        };
        let expected = values(&adamw::<Flex>(f32s, step)[0]);
        for update in UPDATES {
            let found = take(update, start(&parameter), &gradient, squares, step);
            for (found, expected) in values(&found.parameter).iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-6, "{found} is not {expected}");
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let parameter = numbers(40, 600);
    for update in UPDATES {
        let state = take(update, start(&parameter), &numbers(41, 600), None, STEP);
        let before = bits(&state);
        let mut gradient = numbers(42, 600);
        gradient[5] = f32::NAN;
        let state = take(update, state, &gradient, Some(f32::NAN), AdamWStep { step: 2, ..STEP });
        assert_eq!(bits(&state), before);
    }
}

#[test]
fn what_is_shared_is_not_overwritten() {
    let parameter = numbers(50, 300);
    let state = start(&parameter);
    let kept = state.clone();
    take(UPDATES[0], state, &numbers(51, 300), None, STEP);
    assert_eq!(bits(&kept), bits(&start(&parameter)));
}
