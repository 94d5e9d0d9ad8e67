//! The GPU kernel: a unit turns a vector of each half; in place where nothing else holds the input.

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
    x: &Array<Vector<F, N>>,
    cos: &Array<Vector<f32, N>>,
    sin: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    count: u32,
    heads: u32,
    sign: f32,
    #[comptime] plan: HeadPlan,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
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
}

pub(crate) fn turn<R: CubeRuntime>(
    x: CubeTensor<R>,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    inverse: bool,
) -> CubeTensor<R> {
    let (x, cos, sin) = (contiguous(x), contiguous(cos), contiguous(sin));
    let shape = x.shape();
    let (tokens, heads, dim) = (shape[0], shape[1], shape[2]);
    let half = cos.shape()[1];
    let rest = dim - 2 * half;
    let size = vector_size(&[&x, &cos, &sin], greatest_common_divisor(half, rest));
    let in_place = x.can_mut();
    let copied = if in_place { 0 } else { rest / size };
    let plan = HeadPlan { vectors: dim / size, pairs: half / size, units: half / size + copied };
    let count = tokens * heads * plan.units;
    let y = if in_place { x.clone() } else { empty_like(&x) };
    let (client, dtype) = (x.client.clone(), x.dtype);
    let target = if in_place {
        ArrayArg::Alias { input_pos: 0, length: [x.shape().num_elements()] }
    } else {
        y.clone().into_array_arg()
    };
    // SAFETY: a unit reads and writes the vectors of its own pair, all of them within `x`.
    unsafe {
        turn_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            x.into_array_arg(),
            cos.into_array_arg(),
            sin.into_array_arg(),
            target,
            count as u32,
            heads as u32,
            if inverse { -1.0 } else { 1.0 },
            plan,
            dtype.into(),
        );
    }
    y
}
