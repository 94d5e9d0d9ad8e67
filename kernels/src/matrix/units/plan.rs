//! Tiles of tensor operations, and what their kernels are compiled for.

use super::super::plan::PLANE;
use super::super::tile::{Ragged, Tile};

/// The tile of the result that the planes of a cube compute together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::matrix) struct UnitTiles {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Planes.
    pub planes: usize,
}

const fn of(m: usize, n: usize) -> UnitTiles {
    UnitTiles { m, n, planes: 4 }
}

/// Those to choose from. The first is the fastest that others have published for an M5 Pro (tessl 0.2), the last is llama.cpp's of the other
/// orientation.
pub(in crate::matrix) const UNIT_TILES: [UnitTiles; 3] = [of(128, 64), of(64, 64), of(64, 128)];

/// Terms of a packed `B` that are dequantised for one operation; parts of a sum are whole steps.
pub(in crate::matrix) const UNIT_STEP: usize = 64;

impl UnitTiles {
    /// Threads of a cube.
    pub fn threads(&self) -> usize {
        self.planes * PLANE
    }

    /// Cubes of a result.
    pub fn cubes(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct UnitPlan {
    pub tiles: UnitTiles,
    /// `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
    /// Rows of tiles that cubes take together.
    pub band: usize,
    /// Elements of a vector in which a packed `B` reaches shared memory.
    pub vector: usize,
    /// Along which extents tiles of a packed `B` may lie partly beyond the matrix.
    pub ragged: Ragged,
}

impl UnitPlan {
    /// The tile of a packed `B`.
    pub(super) fn tile_b(&self) -> Tile {
        let (threads, Ragged { n, k, .. }) = (self.tiles.threads(), self.ragged);
        if self.transposed_b {
            Tile { rows: self.tiles.n, vectors: UNIT_STEP / self.vector, threads, ragged_rows: n, ragged_vectors: k }
        } else {
            Tile { rows: UNIT_STEP, vectors: self.tiles.n / self.vector, threads, ragged_rows: k, ragged_vectors: n }
        }
    }

    /// Elements from one row of that tile to the next.
    pub(super) fn stride_b(&self) -> usize {
        self.tile_b().stride(self.vector) * self.vector
    }

    /// How the operands are stored, as a mark says it.
    fn form(&self) -> &'static str {
        match (self.transposed_a, self.transposed_b) {
            (false, false) => "nn",
            (false, true) => "nt",
            (true, false) => "tn",
            (true, true) => unreachable!("no caller transposes both, and `Call::takes` refuses it"),
        }
    }

    /// The mark where the sums are declared.
    pub(super) fn begin(&self) -> String {
        let UnitTiles { m, n, planes } = self.tiles;
        format!("units begin {m} {n} {planes} {}", self.form())
    }

    /// The mark of an operation.
    pub(super) fn multiply(&self) -> String {
        format!("units multiply {}", self.form())
    }
}
