//! The GPU kernel: the whole update of many parameters in one launch, in place where nothing else holds the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::AdamWStep;
use crate::cube::launch::{MAX_CUBES, bindings, contiguous, empty_like, groups, vectors};

const UNITS: usize = 256;

/// The numbers of an update, as the kernel takes them.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Numbers {
    factor: f32,
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
fn update_kernel<N: Size>(
    parameters: &Sequence<Array<Vector<f32, N>>>,
    gradients: &Sequence<Array<Vector<f32, N>>>,
    firsts: &Sequence<Array<Vector<f32, N>>>,
    seconds: &Sequence<Array<Vector<f32, N>>>,
    new_parameters: &mut Sequence<Array<Vector<f32, N>>>,
    new_firsts: &mut Sequence<Array<Vector<f32, N>>>,
    new_seconds: &mut Sequence<Array<Vector<f32, N>>>,
    counts: &Sequence<u32>,
    numbers: &Numbers,
    #[comptime] number: usize,
) {
    #[unroll]
    for index in 0..number {
        if CUBE_POS_Y == index as u32 {
            let mut at = ABSOLUTE_POS_X;
            while at < *counts.index(index) {
                let place = at as usize;
                let gradient = gradients.index(index)[place] * Vector::new(numbers.factor);
                let first = firsts.index(index)[place] * Vector::new(numbers.beta1)
                    + gradient * Vector::new(numbers.one_minus_beta1);
                let second = seconds.index(index)[place] * Vector::new(numbers.beta2)
                    + gradient * gradient * Vector::new(numbers.one_minus_beta2);
                let root = Vector::sqrt(second) * Vector::new(numbers.root_correction) + Vector::new(numbers.epsilon);
                let parameter = parameters.index(index)[place] * Vector::new(numbers.kept);
                new_parameters.index_mut(index)[place] = parameter - first / root * Vector::new(numbers.step_size);
                new_firsts.index_mut(index)[place] = first;
                new_seconds.index_mut(index)[place] = second;
                at += CUBE_COUNT_X * CUBE_DIM_X;
            }
        }
    }
}

/// Where parameter and moments stand among a parameter's tensors.
const WRITTEN: [usize; 3] = [0, 2, 3];

/// Each parameter's new `[parameter, first, second]`, of `[parameter, gradient, first, second]`.
pub(crate) fn update<R: CubeRuntime>(tensors: Vec<[CubeTensor<R>; 4]>, step: AdamWStep) -> Vec<[CubeTensor<R>; 3]> {
    let tensors: Vec<_> = tensors.into_iter().map(|tensors| tensors.map(contiguous)).collect();
    let Some(first) = tensors.first() else { return Vec::new() };
    let most = bindings(&first[0].client);
    let bound = |tensors: &[CubeTensor<R>; 4]| 4 + WRITTEN.iter().filter(|place| !tensors[**place].can_mut()).count();
    // What a group is written to is allocated when its turn comes, and its gradients are gone after it.
    groups(tensors, most, bound)
        .into_iter()
        .flat_map(|group| launch(group.into_iter().map(Target::new).collect(), step))
        .collect()
}

/// A parameter's tensors, and what its update is written to.
struct Target<R: CubeRuntime> {
    /// Parameter, gradient and moments.
    tensors: [CubeTensor<R>; 4],
    /// Parameter and moments: those of before, where nothing else holds them.
    new: [CubeTensor<R>; 3],
    in_place: [bool; 3],
}

impl<R: CubeRuntime> Target<R> {
    fn new(tensors: [CubeTensor<R>; 4]) -> Self {
        let in_place = WRITTEN.map(|place| tensors[place].can_mut());
        let new = [0, 1, 2].map(|target| {
            let old = &tensors[WRITTEN[target]];
            if in_place[target] { old.clone() } else { empty_like(old) }
        });
        Self { tensors, new, in_place }
    }
}

fn launch<R: CubeRuntime>(group: Vec<Target<R>>, step: AdamWStep) -> Vec<[CubeTensor<R>; 3]> {
    let number = group.len();
    let all: Vec<_> = group.iter().flat_map(|target| &target.tensors).collect();
    let (size, counts) = vectors(&all);
    // A parameter's four tensors are of one length.
    let counts: Vec<_> = counts.into_iter().step_by(4).collect();
    let client = group[0].tensors[0].client.clone();
    let most = counts.iter().copied().max().unwrap_or(0) as usize;
    let column = |place: usize| group.iter().map(|target| target.tensors[place].clone().into_array_arg()).collect();
    let written = |target: usize| {
        let place = WRITTEN[target];
        let argument = |(index, group): (usize, &Target<R>)| match group.in_place[target] {
            true => ArrayArg::Alias { input_pos: place * number + index, length: [group.tensors[0].shape().num_elements()] },
            false => group.new[target].clone().into_array_arg(),
        };
        group.iter().enumerate().map(argument).collect()
    };
    let times = i32::try_from(step.step).unwrap_or(i32::MAX);
    let first_correction = 1.0 - step.beta1.powi(times);
    let second_correction = 1.0 - step.beta2.powi(times);
    let numbers = NumbersLaunch::new(
        step.gradient_factor as f32,
        step.beta1 as f32,
        step.beta2 as f32,
        (1.0 - step.beta1) as f32,
        (1.0 - step.beta2) as f32,
        (1.0 - step.learning_rate * step.weight_decay) as f32,
        (step.learning_rate / first_correction) as f32,
        (1.0 / second_correction.sqrt()) as f32,
        step.epsilon as f32,
    );
    // SAFETY: a parameter's tensors hold as many vectors as its count says, and a unit touches only its own.
    unsafe {
        update_kernel::launch_unchecked::<R>(
            &client,
            CubeCount::Static(most.div_ceil(UNITS).clamp(1, MAX_CUBES) as u32, number as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            size,
            column(0),
            column(1),
            column(2),
            column(3),
            written(0),
            written(1),
            written(2),
            counts.into_iter().collect(),
            numbers,
            number,
        );
    }
    group.into_iter().map(|target| target.new).collect()
}
