//! The GPU kernels: one launch writes the rows of both buffers in place, and one also rotates query and key.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;
use cubecl::zspace::metadata::Metadata;

use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, contiguous, cubes, empty_like, greatest_common_divisor, same_float, vector_size};
use crate::rotary::cube::{HeadPlan, Place, rotate_vector};

const THREADS: usize = 128;

#[cube(launch_unchecked)]
fn append_kernel<F: Float, N: Size>(
    new_first: &Array<Vector<F, N>>,
    new_second: &Array<Vector<F, N>>,
    first: &mut Array<Vector<F, N>>,
    second: &mut Array<Vector<F, N>>,
    batch: u32,
    // Vectors of the new rows of one text, of a whole buffer's text, and before the new rows.
    rows: u32,
    capacity: u32,
    start: u32,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS as u32;
    let count = batch * rows;
    if at < count {
        first[(at / rows * capacity + start + at % rows) as usize] = new_first[at as usize];
    } else if at < count * 2 {
        let at = at - count;
        second[(at / rows * capacity + start + at % rows) as usize] = new_second[at as usize];
    }
}

/// The extents of queries, keys and values, and where their rows begin in the buffers.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extents {
    tokens: u32,
    /// Tokens of a text.
    length: u32,
    heads: u32,
    key_value_heads: u32,
    capacity: u32,
    start: u32,
}

/// The head of a buffer for a head of the new rows.
#[cube]
fn target(head: u32, extents: &Extents) -> u32 {
    let token = head / extents.key_value_heads;
    let row = token / extents.length * extents.capacity + extents.start + token % extents.length;
    row * extents.key_value_heads + head % extents.key_value_heads
}

#[cube(launch_unchecked)]
fn append_rotated_kernel<F: Float, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    value: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    rotated: &mut Array<Vector<F, N>>,
    keys: &mut Array<Vector<F, N>>,
    values: &mut Array<Vector<F, N>>,
    extents: Extents,
    #[comptime] plan: HeadPlan,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    let queries = (extents.tokens * extents.heads) as usize * plan.threads;
    let new_heads = (extents.tokens * extents.key_value_heads) as usize;
    let new_keys = new_heads * plan.threads;
    let new_values = new_heads * plan.vectors;
    if at < queries {
        let place = Place::new(at, extents.heads, plan);
        rotate_vector::<F, N>(query, cos, sin, rotated, &place, 1.0f32, plan);
    } else if at < queries + new_keys {
        let at = at - queries;
        let mut place = Place::new(at, extents.key_value_heads, plan);
        place.to = target((at / plan.threads) as u32, &extents) as usize * plan.vectors;
        rotate_vector::<F, N>(key, cos, sin, keys, &place, 1.0f32, plan);
    } else if at < queries + new_keys + new_values {
        let at = at - queries - new_keys;
        let to = target((at / plan.vectors) as u32, &extents) as usize * plan.vectors;
        values[to + at % plan.vectors] = value[at];
    }
}

/// The rotated query, and the buffers with the rotated keys and the values.
pub(crate) fn append_rotated<R: CubeRuntime, B: BackendOn<R>>(
    query: CubeTensor<R>,
    new: [CubeTensor<R>; 2],
    table: [CubeTensor<R>; 2],
    buffers: [CubeTensor<R>; 2],
    start: usize,
) -> (CubeTensor<R>, [CubeTensor<R>; 2]) {
    let floats: Vec<&CubeTensor<R>> = new.iter().chain(&buffers).chain([&query]).collect();
    if !in_place(&buffers) || !same_float(&floats) || !all_f32(&table.each_ref()) {
        return super::reference_rotated::<B>(query, new, table, buffers, start);
    }
    let (query, new, table) = (contiguous(query), new.map(contiguous), table.map(contiguous));
    let ([key, value], [cos, sin]) = (&new, &table);
    let (shape, buffer, half) = (query.shape(), buffers[0].shape(), cos.meta.shape()[1]);
    let (tokens, dim) = (shape[0], shape[2]);
    let rest = dim - 2 * half;
    let operands = [&query, key, value, cos, sin, &buffers[0], &buffers[1]];
    let size = vector_size(&operands, greatest_common_divisor(half, rest));
    let plan = HeadPlan { vectors: dim / size, pairs: half / size, threads: half / size + rest / size };
    let heads = shape[1] * plan.threads + buffer[2] * (plan.threads + plan.vectors);
    let (client, dtype, rotated, written) = (query.client.clone(), query.dtype, empty_like(&query), buffers.clone());
    let extents = ExtentsLaunch::new(
        tokens as u32,
        (tokens / buffer[0]) as u32,
        shape[1] as u32,
        buffer[2] as u32,
        buffer[1] as u32,
        start as u32,
    );
    let ([key, value], [cos, sin]) = (new.map(CubeTensor::into_array_arg), table.map(CubeTensor::into_array_arg));
    let [keys, values] = buffers.map(CubeTensor::into_array_arg);
    // SAFETY: a thread reads its own vectors of query, key or value, and the caller has checked that they fit in the buffers.
    unsafe {
        append_rotated_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes((tokens * heads).div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            query.into_array_arg(),
            key,
            value,
            cos,
            sin,
            rotated.clone().into_array_arg(),
            keys,
            values,
            extents,
            plan,
            dtype.into(),
        );
    }
    (rotated, written)
}

/// Whether the buffers can be written where they are.
fn in_place<R: CubeRuntime>(buffers: &[CubeTensor<R>; 2]) -> bool {
    buffers[0].shape() == buffers[1].shape() && buffers.iter().all(|buffer| buffer.can_mut() && buffer.is_contiguous())
}

/// The buffers with the new rows.
pub(crate) fn append<R: CubeRuntime, B: BackendOn<R>>(
    buffers: [CubeTensor<R>; 2],
    new: [CubeTensor<R>; 2],
    start: usize,
) -> [CubeTensor<R>; 2] {
    let new = new.map(contiguous);
    let [[first, second], [new_first, new_second]] = [&buffers, &new];
    if !in_place(&buffers) || !same_float(&[first, second, new_first, new_second]) {
        return super::reference::<B>(buffers, new, start);
    }
    let (shape, rows) = (first.shape(), new_first.shape()[1]);
    let row = shape[2] * shape[3];
    let size = vector_size(&[first, second, new_first, new_second], row);
    let vectors = |rows: usize| (rows * row / size) as u32;
    let (client, dtype, batch) = (first.client.clone(), first.dtype, shape[0]);
    let written = buffers.clone();
    let [first, second] = buffers.map(CubeTensor::into_array_arg);
    let [new_first, new_second] = new.map(CubeTensor::into_array_arg);
    // SAFETY: a thread copies one vector of the new rows, which the caller has checked to fit in the buffer.
    unsafe {
        append_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes((2 * batch * vectors(rows) as usize).div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            new_first,
            new_second,
            first,
            second,
            batch as u32,
            vectors(rows),
            vectors(shape[1]),
            vectors(start),
            dtype.into(),
        );
    }
    written
}

/// The first rows: the same memory, described with another shape.
pub(crate) fn prefix<R: CubeRuntime, B: BackendOn<R>>(buffer: CubeTensor<R>, length: usize) -> CubeTensor<R> {
    let (mut shape, strides) = (buffer.shape(), buffer.meta.strides().clone());
    shape[1] = length;
    CubeTensor::new(buffer.client, buffer.handle, Metadata::new(shape, strides), buffer.device, buffer.dtype)
}
