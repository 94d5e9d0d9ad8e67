//! The GPU kernel: the whole update in one launch, in place where nothing else holds the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::{AdamWStep, AdamWTensors, CLIP_EPSILON};
use crate::cube::BackendOn;
use crate::cube::launch::{MAX_CUBES, all_f32, contiguous, empty_like, vectors};

const THREADS: usize = 256;

/// The parameters of an update, as the kernels take them.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub(crate) struct Parameters {
    pub factor: f32,
    pub max_norm: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub kept: f32,
    pub step_size: f32,
    pub root_correction: f32,
    pub epsilon: f32,
}

/// The parameters of a step, for a launch.
pub(crate) fn parameters<R: CubeRuntime>(step: AdamWStep) -> ParametersLaunch<R> {
    let times = i32::try_from(step.step).unwrap_or(i32::MAX);
    let first_correction = 1.0 - step.beta1.powi(times);
    let second_correction = 1.0 - step.beta2.powi(times);
    ParametersLaunch::new(
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
    )
}

/// Whether a float is finite, by its bits: with fast math a compiler assumes that every float is.
#[cube]
pub(crate) fn is_finite(x: f32) -> bool {
    u32::reinterpret(x) & 0x7f80_0000 != 0x7f80_0000
}

/// The factor on gradients, with the clipping of this squared norm.
#[cube]
pub(crate) fn clipped(squares: f32, parameters: &Parameters) -> f32 {
    let norm = squares.sqrt() * parameters.factor + comptime!(CLIP_EPSILON as f32);
    parameters.factor * min(1.0, parameters.max_norm / norm)
}

#[cube(launch_unchecked)]
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
    parameters: &Parameters,
    #[comptime] measured: bool,
    #[comptime] clips: bool,
) {
    let mut factor = parameters.factor;
    let mut updates = true.runtime();
    if comptime!(measured) {
        updates = is_finite(squares[0]);
        if comptime!(clips) {
            factor = clipped(squares[0], parameters);
        }
    }
    let mut at = ABSOLUTE_POS_X;
    while at < count {
        let i = at as usize;
        if updates {
            let scaled = gradient[i] * Vector::new(factor);
            let mean = first[i] * Vector::new(parameters.beta1) + scaled * Vector::new(parameters.one_minus_beta1);
            let square =
                second[i] * Vector::new(parameters.beta2) + scaled * scaled * Vector::new(parameters.one_minus_beta2);
            let root = Vector::sqrt(square) * Vector::new(parameters.root_correction) + Vector::new(parameters.epsilon);
            let kept = parameter[i] * Vector::new(parameters.kept);
            new_parameter[i] = kept - mean / root * Vector::new(parameters.step_size);
            new_first[i] = mean;
            new_second[i] = square;
        } else {
            new_parameter[i] = parameter[i];
            new_first[i] = first[i];
            new_second[i] = second[i];
        }
        at += CUBE_COUNT_X * CUBE_DIM_X;
    }
}

/// The new parameter and moments.
pub(crate) fn update<R: CubeRuntime, B: BackendOn<R>>(tensors: AdamWTensors<B>, step: AdamWStep) -> [CubeTensor<R>; 3] {
    let AdamWTensors { parameter, gradient, first, second, squares } = &tensors;
    let all: Vec<_> = [parameter, gradient, first, second].into_iter().chain(squares).collect();
    if !all_f32(&all) {
        return super::reference::<B>(tensors, step);
    }
    let AdamWTensors { parameter, gradient, first, second, squares } = tensors;
    let tensors = [parameter, gradient, first, second].map(contiguous);
    let (size, counts) = vectors(&tensors.iter().collect::<Vec<_>>());
    let (client, count) = (tensors[0].client.clone(), counts[0]);
    let length = tensors[0].shape().num_elements();
    // Parameter and moments are written, in place where nothing else holds them.
    let written = [0, 2, 3].map(|index| {
        let old: &CubeTensor<R> = &tensors[index];
        if old.can_mut() {
            (old.clone(), ArrayArg::Alias { input_pos: index, length: [length] })
        } else {
            let new = empty_like(old);
            (new.clone(), new.into_array_arg())
        }
    });
    let [(parameter, new_parameter), (first, new_first), (second, new_second)] = written;
    let (measured, clips) = (squares.is_some(), step.max_norm > 0.0);
    // A kernel always has the same bindings, so another tensor replaces an absent one.
    let squares = squares.map_or_else(|| tensors[1].clone(), contiguous);
    let [old_parameter, gradient, old_first, old_second] = tensors.map(CubeTensor::into_array_arg);
    // SAFETY: the tensors hold `count` vectors, and a thread accesses only its own.
    unsafe {
        update_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static((count as usize).div_ceil(THREADS).clamp(1, MAX_CUBES) as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
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
            parameters(step),
            measured,
            clips,
        );
    }
    [parameter, first, second]
}
