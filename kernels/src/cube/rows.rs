//! How the norms distribute a row over a cube: it is read once and kept in registers.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{row_threads, vectors_in};
use super::reduce::Planes;

/// Most vectors that a thread keeps; longer rows take the composed operation.
const MAX_HELD: usize = 32;
/// Fewest bytes that a thread keeps, where a row has them, so that it has enough loads in flight. Measured on an H200.
const MIN_HELD_BYTES: usize = 32;
/// Cubes of a backward that also computes the weight's gradient: each writes a partial sum.
pub(crate) const WEIGHT_CUBES: usize = 256;

/// How a row is distributed over a cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowPlan {
    /// Vectors of a row.
    pub vectors: usize,
    /// Threads of a cube.
    pub threads: usize,
    /// Vectors of a thread.
    pub held: usize,
    /// How planes reduce.
    pub planes: Planes,
}

impl RowPlan {
    /// For rows of `features` of the dtype of `x`, in vectors of `size`.
    pub fn new<R: CubeRuntime>(x: &CubeTensor<R>, features: usize, size: usize) -> Self {
        let vectors = features / size;
        let threads = row_threads(vectors.div_ceil(vectors_in(MIN_HELD_BYTES, x, size)));
        Self { vectors, threads, held: vectors.div_ceil(threads), planes: Planes::of(&x.client) }
    }
}

/// Whether a row of so many features fits in registers.
pub(crate) fn fits(features: usize) -> bool {
    // The narrowest vector is one element.
    features <= MAX_HELD * 256
}

/// The index in a row of this thread's vector number `i`.
#[cube]
pub(crate) fn index_of(#[comptime] i: usize, #[comptime] plan: RowPlan) -> usize {
    UNIT_POS as usize + comptime!(i * plan.threads)
}

/// Whether a row has this thread's vector number `i`.
#[cube]
pub(crate) fn exists(#[comptime] i: usize, #[comptime] plan: RowPlan) -> bool {
    if comptime!((i + 1) * plan.threads <= plan.vectors) { true.runtime() } else { index_of(i, plan) < plan.vectors }
}

/// Registers for this thread's vectors of a row, as zeros.
#[cube]
pub(crate) fn row_of<F: Float, N: Size>(#[comptime] plan: RowPlan) -> Array<Vector<F, N>> {
    let mut held = Array::<Vector<F, N>>::new(plan.held);
    #[unroll]
    for i in 0..plan.held {
        held[i] = Vector::<F, N>::new(F::new(0.0));
    }
    held
}

/// Reads this thread's vectors of row number `row`; those beyond the row stay as they are.
#[cube]
pub(crate) fn read_row<F: Float, N: Size>(
    source: &Array<Vector<F, N>>,
    held: &mut Array<Vector<F, N>>,
    row: usize,
    #[comptime] plan: RowPlan,
) {
    let start = row * plan.vectors;
    #[unroll]
    for i in 0..plan.held {
        if exists(i, plan) {
            held[i] = source[start + index_of(i, plan)];
        }
    }
}
