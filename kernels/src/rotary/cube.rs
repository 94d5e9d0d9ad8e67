//! The GPU kernel: each thread rotates one vector of each half of a head. One launch rotates query and key, in place where nothing
//! else holds them.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::BackendOn;
use crate::cube::launch::{all_f32, contiguous, cubes, greatest_common_divisor, result_like, same_float, vector_size};

const THREADS: usize = 128;

/// How the vectors of a head are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HeadPlan {
    /// Vectors of the whole head.
    pub vectors: usize,
    /// Vectors of each half that is rotated.
    pub pairs: usize,
    /// Threads of a head: one for each pair, and one for each vector that is only copied.
    pub threads: usize,
}

#[cube(launch_unchecked)]
fn rotary_kernel<F: Float, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    rotated_query: &mut Array<Vector<F, N>>,
    rotated_key: &mut Array<Vector<F, N>>,
    tokens: u32,
    query_heads: u32,
    key_heads: u32,
    sign: f32,
    #[comptime] plan: HeadPlan,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    let (query_threads, key_threads) =
        ((tokens * query_heads) as usize * plan.threads, (tokens * key_heads) as usize * plan.threads);
    if at < query_threads {
        let place = Place::new(at, query_heads, plan);
        rotate_vector::<F, N>(query, cos, sin, rotated_query, &place, sign, plan);
    } else if at < query_threads + key_threads {
        let place = Place::new(at - query_threads, key_heads, plan);
        rotate_vector::<F, N>(key, cos, sin, rotated_key, &place, sign, plan);
    }
}

/// Which vectors a thread rotates.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Place {
    /// The first vector of the head that is read.
    pub from: usize,
    /// The first vector of the head that is written.
    pub to: usize,
    /// The token of the head.
    pub token: usize,
    /// The thread of the head.
    pub within: usize,
}

#[cube]
impl Place {
    /// That of a thread where heads are written as they are read, `[tokens, heads]`.
    pub fn new(at: usize, heads: u32, #[comptime] plan: HeadPlan) -> Place {
        let head = at / plan.threads;
        let start = head * plan.vectors;
        Place { from: start, to: start, token: head / heads as usize, within: at % plan.threads }
    }
}

#[cube]
pub(crate) fn rotate_vector<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    place: &Place,
    sign: f32,
    #[comptime] plan: HeadPlan,
) {
    let (from, to, within) = (place.from, place.to, place.within);
    if within < plan.pairs {
        let angle = place.token * plan.pairs + within;
        let first = Vector::<f32, N>::cast_from(x[from + within]);
        let second = Vector::<f32, N>::cast_from(x[from + within + plan.pairs]);
        let (cos, sin) = (cos[angle], sin[angle] * Vector::<f32, N>::new(sign));
        y[to + within] = Vector::<F, N>::cast_from(first * cos - second * sin);
        y[to + within + plan.pairs] = Vector::<F, N>::cast_from(second * cos + first * sin);
    } else {
        // What is not rotated is copied, one vector in each thread.
        let rest = within + plan.pairs;
        y[to + rest] = x[from + rest];
    }
}

/// Query and key of `[tokens, heads, head_dim]`, rotated.
pub(crate) fn rotate<R: CubeRuntime, B: BackendOn<R>>(
    heads: [CubeTensor<R>; 2],
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    inverse: bool,
) -> [CubeTensor<R>; 2] {
    if !same_float(&heads.each_ref()) || !all_f32(&[&cos, &sin]) {
        return super::reference_both::<B>(heads, cos, sin, inverse);
    }
    let (heads, cos, sin) = (heads.map(contiguous), contiguous(cos), contiguous(sin));
    let [query_shape, key_shape] = heads.each_ref().map(CubeTensor::shape);
    let (tokens, dim, half) = (query_shape[0], query_shape[2], cos.shape()[1]);
    let rest = dim - 2 * half;
    let [query, key] = &heads;
    let size = vector_size(&[query, key, &cos, &sin], greatest_common_divisor(half, rest));
    let in_place = heads.iter().all(CubeTensor::can_mut);
    let copied = if in_place { 0 } else { rest / size };
    let plan = HeadPlan { vectors: dim / size, pairs: half / size, threads: half / size + copied };
    let count = tokens * (query_shape[1] + key_shape[1]) * plan.threads;
    let (client, dtype) = (query.client.clone(), query.dtype);
    let [(query_result, rotated_query), (key_result, rotated_key)] =
        [0, 1].map(|index| result_like(&heads[index], index, in_place));
    let [query, key] = heads.map(CubeTensor::into_array_arg);
    // SAFETY: a thread reads and writes the vectors of its own pair, all of them within its tensor.
    unsafe {
        rotary_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(THREADS)),
            CubeDim::new_1d(THREADS as u32),
            size,
            query,
            key,
            cos.into_array_arg(),
            sin.into_array_arg(),
            rotated_query,
            rotated_key,
            tokens as u32,
            query_shape[1] as u32,
            key_shape[1] as u32,
            if inverse { -1.0 } else { 1.0 },
            plan,
            dtype.into(),
        );
    }
    [query_result, key_result]
}
