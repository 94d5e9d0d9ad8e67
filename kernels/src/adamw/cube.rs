//! The GPU kernel: the whole update in one launch, in place where nothing else holds the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{AdamWStep, CLIP_EPSILON};
use crate::cube::launch::{MAX_CUBES, contiguous, empty_like, vectors};

const UNITS: usize = 256;

/// The numbers of an update, as the kernel takes them.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Numbers {
    factor: f32,
    max_norm: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    kept: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn update_kernel<N: Size>(
    parameter: &Array<Vector<f32, N>>,
    gradient: &Array<Vector<f32, N>>,
    first: &Array<Vector<f32, N>>,
    second: &Array<Vector<f32, N>>,
    squares: &Array<f32>,
    new_parameter: &mut Array<Vector<f32, N>>,
    new_first: &mut Array<Vector<f32, N>>,
    new_second: &mut Array<Vector<f32, N>>,
    count: u32,
    numbers: &Numbers,
    #[comptime] measured: bool,
    #[comptime] clips: bool,
) {
    let mut factor = numbers.factor;
    let mut is_number = true.runtime();
    if comptime!(measured) {
        let squares = squares[0];
        // By its bits: a compiler that computes fast takes every float for a number.
        is_number = u32::reinterpret(squares) & 0x7f80_0000 != 0x7f80_0000;
        if comptime!(clips) {
            factor *= min(1.0, numbers.max_norm / (squares.sqrt() * factor + comptime!(CLIP_EPSILON as f32)));
        }
    }
    let mut at = ABSOLUTE_POS_X;
    while at < count {
        let place = at as usize;
        if is_number {
            let scaled = gradient[place] * Vector::new(factor);
            let mean = first[place] * Vector::new(numbers.beta1) + scaled * Vector::new(numbers.one_minus_beta1);
            let square = second[place] * Vector::new(numbers.beta2) + scaled * scaled * Vector::new(numbers.one_minus_beta2);
            let root = Vector::sqrt(square) * Vector::new(numbers.root_correction) + Vector::new(numbers.epsilon);
            let kept = parameter[place] * Vector::new(numbers.kept);
            new_parameter[place] = kept - mean / root * Vector::new(numbers.step_size);
            new_first[place] = mean;
            new_second[place] = square;
        } else {
            new_parameter[place] = parameter[place];
            new_first[place] = first[place];
            new_second[place] = second[place];
        }
        at += CUBE_COUNT_X * CUBE_DIM_X;
    }
}

/// The new parameter and moments, of parameter, gradient and moments.
pub(crate) fn update<R: CubeRuntime>(
    tensors: [CubeTensor<R>; 4],
    squares: Option<CubeTensor<R>>,
    step: AdamWStep,
) -> [CubeTensor<R>; 3] {
    let tensors = tensors.map(contiguous);
    let (size, counts) = vectors(&tensors.iter().collect::<Vec<_>>());
    let (client, count) = (tensors[0].client.clone(), counts[0]);
    let length = tensors[0].shape().num_elements();
    // What is written: parameter and moments. In place, an output is the input that stands at its number.
    let written = [0, 2, 3].map(|place| {
        let old = &tensors[place];
        if old.can_mut() {
            (old.clone(), ArrayArg::Alias { input_pos: place, length: [length] })
        } else {
            let new = empty_like(old);
            (new.clone(), new.into_array_arg())
        }
    });
    let [(parameter, new_parameter), (first, new_first), (second, new_second)] = written;
    let (measured, clips) = (squares.is_some(), step.max_norm > 0.0);
    // A kernel's bindings are fixed: what is not there is bound to something that is.
    let squares = squares.map_or_else(|| tensors[1].clone(), contiguous);
    let [old_parameter, gradient, old_first, old_second] = tensors.map(CubeTensor::into_array_arg);
    let times = i32::try_from(step.step).unwrap_or(i32::MAX);
    let first_correction = 1.0 - step.beta1.powi(times);
    let second_correction = 1.0 - step.beta2.powi(times);
    let numbers = NumbersLaunch::new(
        step.gradient_factor as f32,
        step.max_norm as f32,
        step.beta1 as f32,
        step.beta2 as f32,
        (1.0 - step.beta1) as f32,
        (1.0 - step.beta2) as f32,
        (1.0 - step.learning_rate * step.weight_decay) as f32,
        (step.learning_rate / first_correction) as f32,
        (1.0 / second_correction.sqrt()) as f32,
        step.epsilon as f32,
    );
    // SAFETY: the tensors hold `count` vectors, and a unit touches only its own.
    unsafe {
        update_kernel::launch_unchecked::<R>(
            &client,
            CubeCount::Static((count as usize).div_ceil(UNITS).clamp(1, MAX_CUBES) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            size,
            old_parameter,
            gradient,
            old_first,
            old_second,
            squares.into_array_arg(),
            new_parameter,
            new_first,
            new_second,
            count,
            numbers,
            measured,
            clips,
        );
    }
    [parameter, first, second]
}
