//! How products with a thin operand are divided.

use super::super::plan::PLANE;
use super::super::registers::{K, ROW};

/// Elements of the wide operand's rows that a plane reads at a time: lines of the cache in 16 bits.
pub(super) const BLOCK: usize = 64;
/// Fragments of the sum that the vectors of the four threads of a row fill.
pub(super) const STEPS: usize = ROW * 4 / K;

/// How the work is divided.
///
/// Measured on an H200, at 8192 rows and rank 16, with the launches for parts and casts: four fragments for 16 planes compute rows of
/// 134 MB in 49 us and of 34 MB in 14, where tiles in shared memory take 50 and 36; four for eight planes sum over rows in 44 and 21 us
/// instead of 52 and 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct ThinTiles {
    /// Fragments of 16 rows of the wide operand that a plane reads at a time.
    pub fragments: usize,
    /// Planes of a cube, which divide the sum.
    pub planes: usize,
}

impl ThinTiles {
    /// Threads of a cube.
    pub(super) fn threads(&self) -> usize {
        self.planes * PLANE
    }
}
