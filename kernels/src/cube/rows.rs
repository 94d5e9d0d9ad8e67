//! How the norms spread a row over a cube: it is read once and kept in registers.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{has_planes, row_units};

/// Vectors that a unit keeps at most; longer rows go by the composed operation.
const MAX_HELD: usize = 32;
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
    /// Whether planes add up among themselves.
    pub planes: bool,
}

impl RowPlan {
    pub fn new<R: CubeRuntime>(x: &CubeTensor<R>, vectors: usize) -> Self {
        let units = row_units(vectors);
        Self { vectors, units, held: vectors.div_ceil(units), planes: has_planes(&x.client) }
    }
}

/// Whether a row of so many features fits into registers.
pub(crate) fn fits(features: usize) -> bool {
    // The narrowest vector is one element.
    features <= MAX_HELD * 256
}
