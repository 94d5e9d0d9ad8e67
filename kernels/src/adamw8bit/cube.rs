//! The GPU kernel: the whole update in one launch. A cube takes block after block, and a thread of it the four elements of a word.

use std::sync::LazyLock;

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::{AdamW8bitTensors, AdamW8bitUpdate, CODES, Moment8bit};
use crate::adamw::AdamWStep;
use crate::adamw::cube::{Parameters, clipped, is_finite, parameters};
use crate::cube::BackendOn;
use crate::cube::launch::{MAX_CUBES, all_f32, contiguous, vector_size};
use crate::cube::reduce::{Planes, cube_max};
use crate::pack;
use crate::packed::codebook::{Codebook, DYNAMIC_BLOCK, SIGNED, UNSIGNED};

/// One for each word of a block.
const THREADS: usize = DYNAMIC_BLOCK / CODES;
/// Blocks that a cube takes at least, where there are as many, so that it copies the maps once for all of them.
const BLOCKS: usize = 8;
/// Entries of a map: values, then bounds.
const MAP: usize = 512;
/// Smallest absolute maximum that has a finite reciprocal; below it, all codes stand for zero.
const LEAST: f32 = f32::MIN_POSITIVE;

/// Both maps, as the kernel takes them.
static MAPS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let entries = |map: &Codebook| {
        // The last bound is beyond every value, and is never read.
        let bounds = map.bounds().iter().copied().chain([2.0]);
        map.values().iter().copied().chain(bounds).flat_map(f32::to_le_bytes).collect::<Vec<_>>()
    };
    [entries(&SIGNED), entries(&UNSIGNED)].concat()
});

/// The code of a value of [-1, 1] in the map at `start`; as `Codebook::nearest`.
#[cube]
fn nearest(maps: &SharedMemory<f32>, x: f32, #[comptime] start: u32) -> u32 {
    let mut code = 0u32;
    #[unroll]
    for bit in 0..8u32 {
        let step = comptime!(128u32 >> bit);
        let bound = maps[(code + comptime!(start + 256 + step - 1)) as usize];
        if x > bound {
            code += step;
        }
    }
    code
}

/// The values of a word's codes.
#[cube]
fn unpacked<N: Size>(maps: &SharedMemory<f32>, word: u32, absmax: f32, #[comptime] start: u32) -> Vector<f32, N> {
    let mut values = Vector::<f32, N>::new(0.0);
    #[unroll]
    for lane in 0..comptime!(CODES) {
        let code = (word >> comptime!(8 * lane as u32)) & 255;
        values[lane] = maps[(code + comptime!(start)) as usize] * absmax;
    }
    values
}

/// The word of four values, of which `inside` are the parameter's: the others have the code 0.
#[cube]
fn packed<N: Size>(
    maps: &SharedMemory<f32>,
    values: Vector<f32, N>,
    absmax: f32,
    inside: u32,
    #[comptime] start: u32,
) -> u32 {
    let mut inverse = 0.0f32;
    if absmax >= comptime!(LEAST) {
        inverse = 1.0 / absmax;
    }
    let mut word = 0u32;
    #[unroll]
    for lane in 0..comptime!(CODES) {
        if comptime!(lane as u32).runtime() < inside {
            let scaled = clamp(values[lane] * inverse, -1.0, 1.0);
            word |= nearest(maps, scaled, start) << comptime!(8 * lane as u32);
        }
    }
    word
}

/// The largest magnitude of four values.
#[cube]
fn largest<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut found = 0.0f32;
    #[unroll]
    for lane in 0..comptime!(CODES) {
        found = max(found, values[lane].abs());
    }
    found
}

#[cube(launch_unchecked)]
fn update_kernel<N: Size>(
    gradient: &Array<Vector<f32, N>>,
    squares: &Array<f32>,
    maps: &Array<f32>,
    parameter: &mut Array<Vector<f32, N>>,
    first_words: &mut Array<u32>,
    first_absmax: &mut Array<f32>,
    second_words: &mut Array<u32>,
    second_absmax: &mut Array<f32>,
    count: u32,
    parameters: &Parameters,
    #[comptime] measured: bool,
    #[comptime] clips: bool,
    #[comptime] planes: Planes,
) {
    let mut shared = SharedMemory::<f32>::new(comptime!(2 * MAP));
    let mut entry = UNIT_POS;
    while entry < comptime!(2 * MAP as u32) {
        shared[entry as usize] = maps[entry as usize];
        entry += comptime!(THREADS as u32);
    }
    sync_cube();
    let mut factor = parameters.factor;
    let mut updates = true.runtime();
    if comptime!(measured) {
        updates = is_finite(squares[0]);
        if comptime!(clips) {
            factor = clipped(squares[0], parameters);
        }
    }
    let blocks = (count + comptime!(DYNAMIC_BLOCK as u32 - 1)) / comptime!(DYNAMIC_BLOCK as u32);
    let mut block = CUBE_POS_X;
    while block < blocks {
        let word = block * comptime!(THREADS as u32) + UNIT_POS;
        let at = word as usize;
        let start = word * comptime!(CODES as u32);
        let mut inside = 0u32;
        if start < count {
            inside = min(count - start, comptime!(CODES as u32).runtime());
        }
        let mut mean = Vector::<f32, N>::new(0.0);
        let mut square = Vector::<f32, N>::new(0.0);
        if inside > 0 {
            let scaled = gradient[at] * Vector::new(factor);
            let old_mean = unpacked::<N>(&shared, first_words[at], first_absmax[block as usize], 0u32);
            let old_square = unpacked::<N>(&shared, second_words[at], second_absmax[block as usize], comptime!(MAP as u32));
            mean = old_mean * Vector::new(parameters.beta1) + scaled * Vector::new(parameters.one_minus_beta1);
            square = old_square * Vector::new(parameters.beta2) + scaled * scaled * Vector::new(parameters.one_minus_beta2);
            if updates {
                let root = Vector::sqrt(square) * Vector::new(parameters.root_correction) + Vector::new(parameters.epsilon);
                let kept = parameter[at] * Vector::new(parameters.kept);
                parameter[at] = kept - mean / root * Vector::new(parameters.step_size);
            }
            // What fills up the last word has codes too, but no part in the scale.
            #[unroll]
            for lane in 1..comptime!(CODES) {
                if comptime!(lane as u32).runtime() >= inside {
                    mean[lane] = 0.0f32;
                    square[lane] = 0.0f32;
                }
            }
        }
        // Barriers within: every thread gets here, as often as the others.
        let first_largest = cube_max(largest::<N>(mean), THREADS, planes);
        let second_largest = cube_max(largest::<N>(square), THREADS, planes);
        if updates {
            if inside > 0 {
                first_words[at] = packed::<N>(&shared, mean, first_largest, inside, 0u32);
                second_words[at] = packed::<N>(&shared, square, second_largest, inside, comptime!(MAP as u32));
            }
            if UNIT_POS == 0 {
                first_absmax[block as usize] = first_largest;
                second_absmax[block as usize] = second_largest;
            }
        }
        block += CUBE_COUNT_X;
    }
}

/// The tensor without gaps, copied where something else holds it.
fn own<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let tensor = contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

/// Updates parameter and moments, in place where nothing else holds them.
pub(crate) fn update<R: CubeRuntime, B: BackendOn<R>>(tensors: AdamW8bitTensors<B>, step: AdamWStep) -> AdamW8bitUpdate<B> {
    let AdamW8bitTensors { parameter, gradient, first, second, squares } = &tensors;
    let floats: Vec<_> = [parameter, gradient, &first.absmax, &second.absmax].into_iter().chain(squares).collect();
    if !all_f32(&floats) || [first, second].iter().any(|moment| moment.words.dtype != DType::I32) {
        return super::reference::<B>(tensors, step);
    }
    let AdamW8bitTensors { parameter, gradient, first, second, squares } = tensors;
    let (shape, count) = (parameter.shape(), parameter.shape().num_elements());
    let [parameter, gradient] = [parameter, gradient].map(contiguous);
    let is_whole = count.is_multiple_of(CODES) && vector_size(&[&parameter, &gradient], CODES) == CODES;
    // Else filled up, so that all of its words are whole vectors.
    let [parameter, gradient] =
        if is_whole { [own(parameter), gradient] } else { [parameter, gradient].map(|x| pack::cube::pack::<R, B>(vec![x])) };
    let [first, second] =
        [first, second].map(|Moment8bit { words, absmax }| Moment8bit { words: own(words), absmax: own(absmax) });
    launch::<R, B>(&parameter, gradient, [&first, &second], squares, (count, step));
    let parameter = if is_whole { parameter } else { pack::unpack::<B>(&parameter, [shape]).remove(0) };
    AdamW8bitUpdate { parameter, first, second }
}

fn launch<R: CubeRuntime, B: BackendOn<R>>(
    parameter: &CubeTensor<R>,
    gradient: CubeTensor<R>,
    [first, second]: [&Moment8bit<B>; 2],
    squares: Option<CubeTensor<R>>,
    (count, step): (usize, AdamWStep),
) {
    let client = parameter.client.clone();
    let maps = client.create_from_slice(&MAPS);
    let maps = CubeTensor::new_contiguous(client.clone(), parameter.device.clone(), [2 * MAP].into(), maps, DType::F32);
    let (measured, clips) = (squares.is_some(), step.max_norm > 0.0);
    // A kernel always has the same bindings, so another tensor replaces an absent one.
    let squares = squares.map_or_else(|| gradient.clone(), contiguous);
    let cubes = count.div_ceil(DYNAMIC_BLOCK * BLOCKS).clamp(1, MAX_CUBES);
    // SAFETY: a thread accesses words below those of `count` elements, which parameter and gradient have vectors for, and its own
    // block's absolute maximum.
    unsafe {
        update_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            CODES,
            gradient.into_array_arg(),
            squares.into_array_arg(),
            maps.into_array_arg(),
            parameter.clone().into_array_arg(),
            first.words.clone().into_array_arg(),
            first.absmax.clone().into_array_arg(),
            second.words.clone().into_array_arg(),
            second.absmax.clone().into_array_arg(),
            count as u32,
            parameters(step),
            measured,
            clips,
            Planes::of(&client),
        );
    }
}
