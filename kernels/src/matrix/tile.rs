//! Tiles of operands: where they lie, and their way to registers and shared memory.

use cubecl::prelude::*;

use super::plan::{PADDING, Tiles};
use super::registers::{CopiedTile, M, N, ROW};

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TilePlan {
    pub tiles: Tiles,
    /// `A` lies as `[k, m]`.
    pub transposed_a: bool,
    /// `B` lies as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
    /// Whether rows of tiles may lie beyond the matrices, by `m`, `n` and `k`.
    pub ragged: [bool; 3],
    /// Elements of a vector that operands are read in.
    pub vector: usize,
    /// Elements of a vector that results are written in.
    pub out_vector: usize,
}

/// One operand's tile: rows of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub rows: usize,
    pub vectors: usize,
    pub units: usize,
    pub ragged_rows: bool,
    pub ragged_vectors: bool,
}

impl Tile {
    /// Vectors that a unit carries.
    pub(super) fn held(&self) -> usize {
        self.copied().count()
    }

    /// Vectors from one row to the next in shared memory.
    pub(super) fn stride(&self, vector: usize) -> usize {
        self.vectors + PADDING / vector
    }

    /// How it is copied without a stay in registers.
    pub(super) fn copied(&self) -> CopiedTile {
        let Self { rows, vectors, units, ragged_rows, ragged_vectors } = *self;
        CopiedTile { rows, vectors, stride: self.stride(ROW), units, checked: ragged_rows || ragged_vectors }
    }
}

impl TilePlan {
    /// Fragments of a plane along rows and columns, on the registers of matrix units.
    pub(super) fn fragments(&self) -> (usize, usize) {
        let tiles = self.tiles;
        (tiles.m / tiles.planes_m / M, tiles.n / tiles.planes_n / N)
    }

    pub(super) fn tile_a(&self) -> Tile {
        let (tiles, [m, _, k]) = (self.tiles, self.ragged);
        let units = tiles.units();
        if self.transposed_a {
            Tile { rows: tiles.k, vectors: tiles.m / self.vector, units, ragged_rows: k, ragged_vectors: m }
        } else {
            Tile { rows: tiles.m, vectors: tiles.k / self.vector, units, ragged_rows: m, ragged_vectors: k }
        }
    }

    pub(super) fn tile_b(&self) -> Tile {
        let (tiles, [_, n, k]) = (self.tiles, self.ragged);
        let units = tiles.units();
        if self.transposed_b {
            Tile { rows: tiles.n, vectors: tiles.k / self.vector, units, ragged_rows: n, ragged_vectors: k }
        } else {
            Tile { rows: tiles.k, vectors: tiles.n / self.vector, units, ragged_rows: k, ragged_vectors: n }
        }
    }
}

/// Reads a tile whose first element is `(row, column)`, in rows and vectors, into registers.
#[cube]
fn fetch<E: Float, F: Float, N: Size>(
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
        let at = UNIT_POS + comptime!((i * tile.units) as u32);
        let r = row + at / comptime!(tile.vectors as u32);
        let c = column + at % comptime!(tile.vectors as u32);
        let mut inside = true;
        if comptime!(tile.rows * tile.vectors % tile.units != 0) {
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
        let at = UNIT_POS + comptime!((i * tile.units) as u32);
        let r = at / comptime!(tile.vectors as u32);
        let c = at % comptime!(tile.vectors as u32);
        let place = base + r * comptime!(tile.stride(vector) as u32) + c;
        if comptime!(tile.rows * tile.vectors % tile.units != 0) {
            if at < comptime!((tile.rows * tile.vectors) as u32) {
                shared[place as usize] = held[i];
            }
        } else {
            shared[place as usize] = held[i];
        }
    }
}

/// Which tile of the result this cube computes: tiles are taken in groups of rows, so that what they share is still in the
/// cache.
#[cube]
pub(super) fn place(tiles_m: u32, tiles_n: u32) -> (u32, u32) {
    let group = 8u32;
    let width = group * tiles_n;
    let first = CUBE_POS_X / width * group;
    let height = min(tiles_m - first, group);
    let within = CUBE_POS_X % width;
    (first + within % height, within / height)
}

/// The depth of a cube's part of the sum, and where its tiles begin.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Span {
    pub row: u32,
    pub column: u32,
    pub begin: u32,
    pub end: u32,
    /// Steps over the first pair of operands.
    pub own_steps: u32,
    /// Those over the second besides.
    pub steps: u32,
}

/// The span of this cube.
#[cube]
pub(super) fn span(m: u32, n: u32, k: u32, more_k: u32, part: u32, #[comptime] plan: TilePlan) -> Span {
    let tile_k = comptime!(plan.tiles.k as u32);
    let (tile_m, tile_n) = comptime!((plan.tiles.m as u32, plan.tiles.n as u32));
    let (at_m, at_n) = place(m.div_ceil(tile_m), n.div_ceil(tile_n));
    let begin = CUBE_POS_Y * part;
    let end = min(begin + part, k);
    let own_steps = (end - begin).div_ceil(tile_k);
    let mut steps = own_steps;
    if comptime!(plan.more) {
        steps += more_k.div_ceil(tile_k);
    }
    Span { row: at_m * tile_m, column: at_n * tile_n, begin, end, own_steps, steps }
}

/// Reads the tiles of a step into registers; steps past the first pair's are of the second.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn fetch_step<F: Float, G: Float, X: Float, N: Size>(
    a: &Array<Vector<F, N>>,
    b: &Array<Vector<G, N>>,
    more_a: &Array<Vector<F, N>>,
    more_b: &Array<Vector<X, N>>,
    held_a: &mut Array<Vector<F, N>>,
    held_b: &mut Array<Vector<F, N>>,
    step: u32,
    m: u32,
    n: u32,
    k: u32,
    more_k: u32,
    span: &Span,
    #[comptime] plan: TilePlan,
) {
    let tile_k = comptime!(plan.tiles.k as u32);
    let width = comptime!(plan.vector as u32);
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    if step < span.own_steps {
        let depth = span.begin + step * tile_k;
        if comptime!(plan.transposed_a) {
            fetch::<F, F, N>(a, held_a, depth, span.row / width, span.end, m / width, tile_a);
        } else {
            fetch::<F, F, N>(a, held_a, span.row, depth / width, m, k / width, tile_a);
        }
        if comptime!(plan.transposed_b) {
            fetch::<G, F, N>(b, held_b, span.column, depth / width, n, k / width, tile_b);
        } else {
            fetch::<G, F, N>(b, held_b, depth, span.column / width, span.end, n / width, tile_b);
        }
    } else if comptime!(plan.more) {
        let depth = (step - span.own_steps) * tile_k;
        let tall_a = comptime!(Tile { ragged_vectors: true, ..tile_a });
        fetch::<F, F, N>(more_a, held_a, span.row, depth / width, m, more_k / width, tall_a);
        if comptime!(plan.transposed_b) {
            let tall_b = comptime!(Tile { ragged_vectors: true, ..tile_b });
            fetch::<X, F, N>(more_b, held_b, span.column, depth / width, n, more_k / width, tall_b);
        } else {
            let tall_b = comptime!(Tile { ragged_rows: true, ..tile_b });
            fetch::<X, F, N>(more_b, held_b, depth, span.column / width, more_k, n / width, tall_b);
        }
    }
}
