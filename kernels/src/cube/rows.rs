//! How the norms spread a row over a cube: it is read once and kept in registers.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{row_units, vectors_in};
use super::reduce::Planes;

/// Vectors that a unit keeps at most; longer rows go by the composed operation.
const MAX_HELD: usize = 32;
/// Bytes that a unit keeps at least, where a row has them: so much of a unit is under way at once. Measured on an H200.
const LEAST_HELD: usize = 32;
/// Cubes of a backward that also wants the weight's gradient: each writes a partial sum.
pub(crate) const WEIGHT_CUBES: usize = 256;

/// How a row is spread over a cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowPlan {
    /// Vectors of a row.
    pub vectors: usize,
    /// Units of a cube.
    pub units: usize,
    /// Vectors of a unit.
    pub held: usize,
    /// What planes add up among themselves.
    pub planes: Planes,
}

impl RowPlan {
    /// For rows of `features` of the dtype of `x`, in vectors of `size`.
    pub fn new<R: CubeRuntime>(x: &CubeTensor<R>, features: usize, size: usize) -> Self {
        let vectors = features / size;
        let units = row_units(vectors.div_ceil(vectors_in(LEAST_HELD, x, size)));
        Self { vectors, units, held: vectors.div_ceil(units), planes: Planes::of(&x.client) }
    }
}

/// Whether a row of so many features fits into registers.
pub(crate) fn fits(features: usize) -> bool {
    // The narrowest vector is one element.
    features <= MAX_HELD * 256
}

/// Where a unit's vector number `i` lies in a row.
#[cube]
pub(crate) fn place(#[comptime] i: usize, #[comptime] plan: RowPlan) -> usize {
    UNIT_POS as usize + comptime!(i * plan.units)
}

/// Whether a row has a unit's vector number `i`.
#[cube]
pub(crate) fn is_there(#[comptime] i: usize, #[comptime] plan: RowPlan) -> bool {
    if comptime!((i + 1) * plan.units <= plan.vectors) { true.runtime() } else { place(i, plan) < plan.vectors }
}

/// A unit's vectors of a row, in registers.
#[cube]
pub(crate) fn row_of<F: Float, N: Size>(#[comptime] plan: RowPlan) -> Array<Vector<F, N>> {
    let mut held = Array::<Vector<F, N>>::new(plan.held);
    #[unroll]
    for i in 0..plan.held {
        held[i] = Vector::<F, N>::new(F::new(0.0));
    }
    held
}

/// Reads a unit's vectors of row number `row`; what is beyond the row stays as it is.
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
        if is_there(i, plan) {
            held[i] = source[start + place(i, plan)];
        }
    }
}
