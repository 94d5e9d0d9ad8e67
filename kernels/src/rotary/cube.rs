//! The GPU kernel: a unit turns a vector of each half of a head, of query and key in one launch; in place where nothing else holds
//! them.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, empty_like, greatest_common_divisor, vector_size};

const UNITS: usize = 128;

/// A head, in vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct HeadPlan {
    /// Of the whole head.
    vectors: usize,
    /// Of each half that turns.
    pairs: usize,
    /// Units of a head: one for each pair, and one for each vector that is only copied.
    units: usize,
}

#[cube(launch_unchecked)]
fn turn_kernel<F: Float, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    turned_query: &mut Array<Vector<F, N>>,
    turned_key: &mut Array<Vector<F, N>>,
    tokens: u32,
    query_heads: u32,
    key_heads: u32,
    sign: f32,
    #[comptime] plan: HeadPlan,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    let (query_units, key_units) =
        ((tokens * query_heads) as usize * plan.units, (tokens * key_heads) as usize * plan.units);
    if at < query_units {
        turn_vector::<F, N>(query, cos, sin, turned_query, at, query_heads, sign, plan);
    } else if at < query_units + key_units {
        turn_vector::<F, N>(key, cos, sin, turned_key, at - query_units, key_heads, sign, plan);
    }
}

#[cube]
#[allow(clippy::too_many_arguments)]
fn turn_vector<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    at: usize,
    heads: u32,
    sign: f32,
    #[comptime] plan: HeadPlan,
) {
    let head = at / plan.units;
    let within = at % plan.units;
    let start = head * plan.vectors;
    if within < plan.pairs {
        let angle = head / heads as usize * plan.pairs + within;
        let first = Vector::<f32, N>::cast_from(x[start + within]);
        let second = Vector::<f32, N>::cast_from(x[start + within + plan.pairs]);
        let (cos, sin) = (cos[angle], sin[angle] * Vector::<f32, N>::new(sign));
        y[start + within] = Vector::<F, N>::cast_from(first * cos - second * sin);
        y[start + within + plan.pairs] = Vector::<F, N>::cast_from(second * cos + first * sin);
    } else {
        // What does not turn is copied, one vector a unit.
        let rest = within + plan.pairs;
        y[start + rest] = x[start + rest];
    }
}

/// Query and key of `[tokens, heads, head_dim]`, turned.
pub(crate) fn turn<R: CubeRuntime>(
    heads: [CubeTensor<R>; 2],
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    inverse: bool,
) -> [CubeTensor<R>; 2] {
    let (heads, cos, sin) = (heads.map(contiguous), contiguous(cos), contiguous(sin));
    let [query_shape, key_shape] = heads.each_ref().map(CubeTensor::shape);
    let (tokens, dim, half) = (query_shape[0], query_shape[2], cos.shape()[1]);
    let rest = dim - 2 * half;
    let [query, key] = &heads;
    let size = vector_size(&[query, key, &cos, &sin], greatest_common_divisor(half, rest));
    let in_place = heads.iter().all(CubeTensor::can_mut);
    let copied = if in_place { 0 } else { rest / size };
    let plan = HeadPlan { vectors: dim / size, pairs: half / size, units: half / size + copied };
    let count = tokens * (query_shape[1] + key_shape[1]) * plan.units;
    let turned = heads.each_ref().map(|x| if in_place { x.clone() } else { empty_like(x) });
    let target = |place: usize| match in_place {
        true => ArrayArg::Alias { input_pos: place, length: [heads[place].shape().num_elements()] },
        false => turned[place].clone().into_array_arg(),
    };
    let (client, dtype) = (query.client.clone(), query.dtype);
    let [turned_query, turned_key] = [0, 1].map(target);
    let [query, key] = heads.map(CubeTensor::into_array_arg);
    // SAFETY: a unit reads and writes the vectors of its own pair, all of them within its tensor.
    unsafe {
        turn_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            query,
            key,
            cos.into_array_arg(),
            sin.into_array_arg(),
            turned_query,
            turned_key,
            tokens as u32,
            query_shape[1] as u32,
            key_shape[1] as u32,
            if inverse { -1.0 } else { 1.0 },
            plan,
            dtype.into(),
        );
    }
    turned
}
