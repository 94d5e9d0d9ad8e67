//! Tiles of operands: where they lie, and how they reach registers and shared memory.

use cubecl::prelude::*;

use super::plan::{FragmentGrid, PADDING, Tiles};
use super::registers::{CopiedTile, M, N, ROW};

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TilePlan {
    pub tiles: Tiles,
    /// `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
    /// Which extents of the product are not whole tiles.
    pub ragged: Ragged,
    /// Elements of a vector that operands are read in.
    pub vector: usize,
    /// Elements of a vector that results are written in.
    pub out_vector: usize,
    /// Rows of tiles that cubes take together.
    pub band: usize,
    /// How results are written.
    pub writes: Writes,
}

/// How a kernel on fragments writes its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Writes {
    /// Through shared memory, in vectors.
    Scratch,
    /// Each lane what it holds, whole fragments only; `cast` where the result has another dtype than the sums.
    Lanes { cast: bool },
}

/// Along which extents of a product tiles may lie partly beyond the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ragged {
    pub m: bool,
    pub n: bool,
    pub k: bool,
}

/// One operand's tile: rows of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub rows: usize,
    pub vectors: usize,
    pub threads: usize,
    pub ragged_rows: bool,
    pub ragged_vectors: bool,
}

impl Tile {
    /// Vectors that a thread holds.
    pub(super) fn held(&self) -> usize {
        self.copied().count()
    }

    /// Vectors from one row to the next in shared memory.
    pub(super) fn stride(&self, vector: usize) -> usize {
        self.vectors + PADDING / vector
    }

    /// The tile as it is copied past the registers.
    pub(super) fn copied(&self) -> CopiedTile {
        let Self { rows, vectors, threads, ragged_rows, ragged_vectors } = *self;
        CopiedTile { rows, vectors, stride: self.stride(ROW), threads, checked: ragged_rows || ragged_vectors }
    }
}

impl TilePlan {
    /// Fragments of a plane on the registers of matrix units.
    pub(super) fn fragments(&self) -> FragmentGrid {
        let tiles = self.tiles;
        FragmentGrid { m: tiles.m / tiles.planes_m / M, n: tiles.n / tiles.planes_n / N }
    }

    pub(super) fn tile_a(&self) -> Tile {
        let (tiles, Ragged { m, k, .. }) = (self.tiles, self.ragged);
        let threads = tiles.threads();
        if self.transposed_a {
            Tile { rows: tiles.k, vectors: tiles.m / self.vector, threads, ragged_rows: k, ragged_vectors: m }
        } else {
            Tile { rows: tiles.m, vectors: tiles.k / self.vector, threads, ragged_rows: m, ragged_vectors: k }
        }
    }

    pub(super) fn tile_b(&self) -> Tile {
        let (tiles, Ragged { n, k, .. }) = (self.tiles, self.ragged);
        let threads = tiles.threads();
        if self.transposed_b {
            Tile { rows: tiles.n, vectors: tiles.k / self.vector, threads, ragged_rows: n, ragged_vectors: k }
        } else {
            Tile { rows: tiles.k, vectors: tiles.n / self.vector, threads, ragged_rows: k, ragged_vectors: n }
        }
    }
}

/// Reads a tile whose first element is `(row, column)`, in rows and vectors, into registers.
#[cube]
pub(super) fn fetch<E: Float, F: Float, N: Size>(
    source: &Array<Vector<E, N>>,
    held: &mut Array<Vector<F, N>>,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    #[comptime] tile: Tile,
) {
    let count = comptime!(tile.held());
    #[unroll]
    for i in 0..count {
        let at = UNIT_POS + comptime!((i * tile.threads) as u32);
        let r = row + at / comptime!(tile.vectors as u32);
        let c = column + at % comptime!(tile.vectors as u32);
        let mut inside = true;
        if comptime!(tile.rows * tile.vectors % tile.threads != 0) {
            inside = at < comptime!((tile.rows * tile.vectors) as u32);
        }
        if comptime!(tile.ragged_rows) {
            inside = inside && r < rows;
        }
        if comptime!(tile.ragged_vectors) {
            inside = inside && c < columns;
        }
        if inside {
            held[i] = Vector::<F, N>::cast_from(source[(r * columns + c) as usize]);
        } else {
            held[i] = Vector::<F, N>::new(F::new(0.0));
        }
    }
}

/// Writes what [`fetch`] read to shared memory.
#[cube]
pub(super) fn put<F: Float, N: Size>(
    held: &Array<Vector<F, N>>,
    shared: &mut SharedMemory<Vector<F, N>>,
    base: u32,
    #[comptime] tile: Tile,
    #[comptime] vector: usize,
) {
    let count = comptime!(tile.held());
    #[unroll]
    for i in 0..count {
        let at = UNIT_POS + comptime!((i * tile.threads) as u32);
        let r = at / comptime!(tile.vectors as u32);
        let c = at % comptime!(tile.vectors as u32);
        let to = base + r * comptime!(tile.stride(vector) as u32) + c;
        if comptime!(tile.rows * tile.vectors % tile.threads != 0) {
            if at < comptime!((tile.rows * tile.vectors) as u32) {
                shared[to as usize] = held[i];
            }
        } else {
            shared[to as usize] = held[i];
        }
    }
}

/// Row and column, in tiles, of the tile of the result that this cube computes. Cubes take tiles in bands of rows, so that what
/// they share is still in the cache.
#[cube]
pub(super) fn tile_of_cube(tiles_m: u32, tiles_n: u32, #[comptime] band: usize) -> (u32, u32) {
    let group = comptime!(band as u32);
    let width = group * tiles_n;
    let first = CUBE_POS_X / width * group;
    let height = min(tiles_m - first, group);
    let within = CUBE_POS_X % width;
    (first + within % height, within / height)
}

/// The extents of a product as the kernels take them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Terms of the second pair of operands.
    pub more_k: u32,
    /// Terms of a part of the sum over `k`.
    pub part: u32,
}

/// What this cube computes: a tile of the result, over a part of the sum.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Span {
    /// First row of the tile.
    pub row: u32,
    /// First column of the tile.
    pub column: u32,
    /// First term.
    pub begin: u32,
    /// The term after the last.
    pub end: u32,
    /// Steps over the first pair of operands.
    pub own_steps: u32,
    /// Steps over both pairs.
    pub steps: u32,
    pub sizes: Sizes,
}

/// The span of this cube.
#[cube]
pub(super) fn span(sizes: Sizes, #[comptime] plan: TilePlan) -> Span {
    let tile_k = comptime!(plan.tiles.k as u32);
    let (tile_m, tile_n) = comptime!((plan.tiles.m as u32, plan.tiles.n as u32));
    let (at_m, at_n) = tile_of_cube(sizes.m.div_ceil(tile_m), sizes.n.div_ceil(tile_n), plan.band);
    let begin = CUBE_POS_Y * sizes.part;
    let end = min(begin + sizes.part, sizes.k);
    let own_steps = (end - begin).div_ceil(tile_k);
    let mut steps = own_steps;
    if comptime!(plan.more) {
        steps += sizes.more_k.div_ceil(tile_k);
    }
    Span { row: at_m * tile_m, column: at_n * tile_n, begin, end, own_steps, steps, sizes }
}

/// Whether there is a step `step`; not asked where it is `certain`.
#[cube]
pub(super) fn exists(step: u32, span: &Span, #[comptime] certain: bool) -> bool {
    if comptime!(certain) { true.runtime() } else { step < span.steps }
}
