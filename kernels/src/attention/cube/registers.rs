//! Attention on matrix units whose registers a kernel can access: scores become weights in place.

use std::ops::Range;

use cubecl::prelude::*;

use super::scores::{Head, Mask, Sight, sees};
use crate::matrix::registers::{Area, CopiedTile, K, M, N, ROW, copy_tile, fragment_at, left, right, thread_row, zeros};
use crate::matrix::{PADDING, PLANE};

/// The tiles of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RegisterTiles {
    pub head_dim: usize,
    /// Columns of a tile of scores.
    pub columns: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Fragments of rows that a plane owns.
    pub fragments: usize,
}

impl RegisterTiles {
    pub(super) fn rows(&self) -> usize {
        self.planes * self.fragments * M
    }

    pub(super) fn threads(&self) -> usize {
        self.planes * PLANE
    }

    /// Vectors of a row.
    pub(super) fn vectors(&self) -> usize {
        self.head_dim / ROW
    }

    /// Vectors from one row of a tile to the next in shared memory.
    pub(super) fn stride(&self) -> usize {
        self.vectors() + PADDING / ROW
    }

    /// Vectors of a tile of columns.
    pub(super) fn stage(&self) -> usize {
        self.columns * self.stride()
    }

    /// Which of `loads` loads of the right operand are issued before product `now`: some products ahead of their use.
    fn due(&self, now: usize, loads: usize) -> Range<usize> {
        let ahead = (4 / self.fragments).max(1);
        let end = (now + ahead + 1).min(loads);
        let start = if now == 0 { 0 } else { (now + ahead).min(end) };
        start..end
    }

    /// Bytes of shared memory: `own` tiles of rows, and two stages of two tiles of columns.
    pub(super) fn shared_bytes(&self, own: usize) -> usize {
        (own * self.rows() * self.stride() + 4 * self.stage()) * 16 + 4 * self.columns * 4
    }
}

/// Begins the copies of positions `first…` of a head to shared memory, with zeros beyond the last.
#[cube]
pub(super) fn copy_rows<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    head: &Head,
    first: u32,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    #[comptime] rows: usize,
    #[comptime] tiles: RegisterTiles,
) {
    let vectors = comptime!(tiles.vectors() as u32);
    let tile = comptime!(CopiedTile {
        rows,
        vectors: tiles.vectors(),
        stride: tiles.stride(),
        threads: tiles.threads(),
        checked: true
    });
    let area = Area { row: first, column: 0u32, rows: head.length, columns: vectors, stride: head.stride };
    copy_tile::<F, S>(source, head.offset, &area, shared, to, comptime!(tile.whole()));
}

/// Tiles of two tensors of one shape in shared memory: of keys and values, or of queries and the result's gradient.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Both<F: Float, S: Size> {
    pub one: SharedMemory<Vector<F, S>>,
    pub other: SharedMemory<Vector<F, S>>,
}

/// [`copy_rows`] of both tensors.
#[cube]
pub(super) fn copy_both<F: Float, S: Size>(
    one: &Array<Vector<F, S>>,
    other: &Array<Vector<F, S>>,
    head: &Head,
    first: u32,
    shared: &mut Both<F, S>,
    to: u32,
    #[comptime] rows: usize,
    #[comptime] tiles: RegisterTiles,
) {
    copy_rows::<F, S>(one, head, first, &mut shared.one, to, rows, tiles);
    copy_rows::<F, S>(other, head, first, &mut shared.other, to, rows, tiles);
}

/// A plane's own rows, as fragments of the left operand.
#[cube]
pub(super) fn own_rows<F: Float, S: Size, NA: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    shared: &SharedMemory<Vector<F, S>>,
    #[comptime] tiles: RegisterTiles,
) -> Sequence<Array<Vector<F, NA>>> {
    let mut rows = Sequence::<Array<Vector<F, NA>>>::new();
    let start = PLANE_POS * comptime!((tiles.fragments * M * tiles.stride()) as u32) + thread_row(tiles.stride(), false);
    #[unroll]
    for i in 0..tiles.fragments {
        #[unroll]
        for depth in 0..comptime!(tiles.head_dim / K) {
            let at = comptime!(fragment_at(i * M, depth * K, tiles.stride(), true));
            rows.push(left::<F, S, NA>(definition, shared, start, at, false));
        }
    }
    rows
}

/// The products of a plane's rows and the columns of a tile.
#[cube]
pub(super) fn products<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    rows: &Sequence<Array<Vector<F, NA>>>,
    tile: &SharedMemory<Vector<F, S>>,
    base: u32,
    #[comptime] tiles: RegisterTiles,
) -> Sequence<Array<Vector<f32, NC>>> {
    let (count, depths) = comptime!((tiles.columns / N, tiles.head_dim / K));
    let mut sums = zeros::<NC>(comptime!(tiles.fragments * count));
    let start = base + thread_row(tiles.stride(), true);
    let loads = comptime!(count / 2 * depths);
    let mut columns = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for now in 0..loads {
        let due = comptime!(tiles.due(now, loads));
        #[unroll]
        for load in comptime!(due.start)..comptime!(due.end) {
            let at = comptime!(fragment_at(load / depths * 2 * N, load % depths * K, tiles.stride(), true));
            right::<F, S, NB>(&mut columns, definition, tile, start, at, true);
        }
        // Without this barrier NVIDIA's assembler moves the loads back to their use.
        sync_plane();
        #[unroll]
        for i in 0..tiles.fragments {
            #[unroll]
            for half in 0..2usize {
                definition.execute_inplace(
                    rows.index(comptime!(i * depths + now % depths)),
                    columns.index(comptime!(now * 2 + half)),
                    sums.index_mut(comptime!(i * count + now / depths * 2 + half)),
                );
            }
        }
    }
    sums
}

/// Adds the product of a plane's weights with the rows of a tile to its sums.
#[cube]
pub(super) fn accumulate<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    weights: &Sequence<Array<Vector<f32, NC>>>,
    tile: &SharedMemory<Vector<F, S>>,
    base: u32,
    sums: &mut Sequence<Array<Vector<f32, NC>>>,
    #[comptime] tiles: RegisterTiles,
) {
    let (count, columns) = comptime!((tiles.head_dim / N, tiles.columns / N));
    let start = base + thread_row(tiles.stride(), false);
    let (across, loads) = comptime!((count / 2, tiles.columns / K * (count / 2)));
    let mut right_two = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for depth in 0..comptime!(tiles.columns / K) {
        // A thread's elements of two fragments of sums are those that it needs of one fragment of the left operand.
        let mut rows = Sequence::<Array<Vector<F, NA>>>::new();
        #[unroll]
        for i in 0..tiles.fragments {
            let mut row = Array::<Vector<F, NA>>::new(4usize);
            #[unroll]
            for half in 0..2usize {
                let weight = weights.index(comptime!(i * columns + depth * 2 + half));
                #[unroll]
                for r in 0..2usize {
                    row[comptime!(half * 2 + r)] = Vector::<F, NA>::cast_from(weight[r]);
                }
            }
            rows.push(row);
        }
        #[unroll]
        for j in 0..across {
            let now = comptime!(depth * across + j);
            let due = comptime!(tiles.due(now, loads));
            #[unroll]
            for load in comptime!(due.start)..comptime!(due.end) {
                let at = comptime!(fragment_at(load % across * 2 * N, load / across * K, tiles.stride(), false));
                right::<F, S, NB>(&mut right_two, definition, tile, start, at, false);
            }
            sync_plane();
            #[unroll]
            for i in 0..tiles.fragments {
                #[unroll]
                for half in 0..2usize {
                    definition.execute_inplace(
                        rows.index(i),
                        right_two.index(comptime!(now * 2 + half)),
                        sums.index_mut(comptime!(i * count + j * 2 + half)),
                    );
                }
            }
        }
    }
}

/// The row within the cube's rows of the first or second half of a thread's elements of a fragment.
#[cube]
pub(super) fn row_of(#[comptime] fragment: usize, #[comptime] half: usize, #[comptime] tiles: RegisterTiles) -> u32 {
    PLANE_POS * comptime!((tiles.fragments * M) as u32) + comptime!((fragment * M + half * 8) as u32) + UNIT_POS_PLANE / 4
}

/// Writes a plane's sums, each row times its factor, to positions `first…` of a head.
#[cube]
pub(super) fn write_sums<F: Float, V: Size, NC: Size>(
    sums: &Sequence<Array<Vector<f32, NC>>>,
    factors: &Array<f32>,
    out: &mut Array<Vector<F, V>>,
    head: &Head,
    first: u32,
    #[comptime] tiles: RegisterTiles,
) {
    #[unroll]
    for i in 0..tiles.fragments {
        #[unroll]
        for half in 0..2usize {
            let row = first + row_of(i, half, tiles);
            if row < head.length {
                #[unroll]
                for j in 0..comptime!(tiles.head_dim / N) {
                    let two = sums.index(comptime!(i * (tiles.head_dim / N) + j))[half];
                    let factor = factors[comptime!(i * 2 + half)];
                    let mut value = Vector::<f32, V>::new(0.0f32);
                    value[0] = two[0] * factor;
                    value[1] = two[1] * factor;
                    let to = head.offset + row * head.stride + comptime!((j * N / 2) as u32) + UNIT_POS_PLANE % 4;
                    out[to as usize] = Vector::<F, V>::cast_from(value);
                }
            }
        }
    }
}

/// `exp(x)`, as fast as the device computes it.
#[cube(fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
pub(super) fn quick_exp(x: f32) -> f32 {
    f32::exp(x)
}

/// First row and column of a tile of scores.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Corner {
    pub row: u32,
    pub column: u32,
}

/// Replaces values by `hidden` where the query must not see the key; rows are queries, or keys where `by_key`.
#[cube]
pub(super) fn hide<I: Int, NC: Size>(
    values: &mut Sequence<Array<Vector<f32, NC>>>,
    hidden: f32,
    segments: &Array<I>,
    mask: &Mask,
    corner: &Corner,
    #[comptime] by_key: bool,
    #[comptime] tiles: RegisterTiles,
    #[comptime] sight: Sight,
) {
    #[unroll]
    for i in 0..comptime!(tiles.fragments * 2) {
        let row = corner.row + row_of(comptime!(i / 2), comptime!(i % 2), tiles);
        #[unroll]
        for j in 0..comptime!(tiles.columns / N) {
            let fragment = values.index_mut(comptime!(i / 2 * (tiles.columns / N) + j));
            let mut two = fragment[comptime!(i % 2)];
            #[unroll]
            for e in 0..2usize {
                let c = corner.column + comptime!((j * N + e) as u32) + UNIT_POS_PLANE % 4 * 2;
                let (query, key) = if comptime!(by_key) { (c, row) } else { (row, c) };
                if !sees::<I>(segments, mask, query, key, sight) {
                    two[e] = hidden;
                }
            }
            fragment[comptime!(i % 2)] = two;
        }
    }
}
