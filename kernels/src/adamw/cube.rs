//! The GPU kernel: the whole update of a parameter in one launch, in place where nothing else holds the tensors.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::AdamWStep;
use crate::cube::launch::{contiguous, cubes, empty_like, vector_size};

const UNITS: usize = 256;

#[cube(launch_unchecked)]
fn update_kernel<N: Size>(
    parameter: &Array<Vector<f32, N>>,
    gradient: &Array<Vector<f32, N>>,
    first: &Array<Vector<f32, N>>,
    second: &Array<Vector<f32, N>>,
    new_parameter: &mut Array<Vector<f32, N>>,
    new_first: &mut Array<Vector<f32, N>>,
    new_second: &mut Array<Vector<f32, N>>,
    count: u32,
    factor: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    kept: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let gradient = gradient[at] * Vector::new(factor);
        let first = first[at] * Vector::new(beta1) + gradient * Vector::new(one_minus_beta1);
        let second = second[at] * Vector::new(beta2) + gradient * gradient * Vector::new(one_minus_beta2);
        let root = Vector::sqrt(second) * Vector::new(root_correction) + Vector::new(epsilon);
        new_parameter[at] = parameter[at] * Vector::new(kept) - first / root * Vector::new(step_size);
        new_first[at] = first;
        new_second[at] = second;
    }
}

pub(crate) fn update<R: CubeRuntime>(
    parameter: CubeTensor<R>,
    gradient: CubeTensor<R>,
    first: CubeTensor<R>,
    second: CubeTensor<R>,
    step: AdamWStep,
) -> [CubeTensor<R>; 3] {
    let [parameter, gradient, first, second] = [parameter, gradient, first, second].map(contiguous);
    let elements = parameter.shape().num_elements();
    let size = vector_size(&[&parameter, &gradient, &first, &second], elements);
    let client = parameter.client.clone();
    let count = elements / size;
    let times = i32::try_from(step.step).unwrap_or(i32::MAX);
    let first_correction = 1.0 - step.beta1.powi(times);
    let second_correction = 1.0 - step.beta2.powi(times);
    // The result and the argument that it is written through; `position` is that of the input.
    let target = |tensor: &CubeTensor<R>, position: usize| {
        if tensor.can_mut() {
            (tensor.clone(), ArrayArg::Alias { input_pos: position, length: [elements] })
        } else {
            let new = empty_like(tensor);
            (new.clone(), new.into_array_arg())
        }
    };
    let (new_parameter, parameter_target) = target(&parameter, 0);
    let (new_first, first_target) = target(&first, 2);
    let (new_second, second_target) = target(&second, 3);
    // SAFETY: all tensors hold `count` vectors, and a unit touches only its own.
    unsafe {
        update_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            parameter.into_array_arg(),
            gradient.into_array_arg(),
            first.into_array_arg(),
            second.into_array_arg(),
            parameter_target,
            first_target,
            second_target,
            count as u32,
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
    }
    [new_parameter, new_first, new_second]
}
