//! Writing sums from registers to memory.

use cubecl::prelude::*;

use super::super::plan::PLANE;
use super::super::registers::{M, N, ROW};
use super::super::tile::{Span, TilePlan};

/// Where a plane's sums begin in the result.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Corner {
    pub row: u32,
    pub column: u32,
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
}

/// The corner of a plane whose fragments begin `first_m` rows and `first_n` columns into the cube's tile.
#[cube]
pub(super) fn corner(span: &Span, first_m: u32, first_n: u32) -> Corner {
    Corner { row: span.row + first_m, column: span.column + first_n, m: span.sizes.m, n: span.sizes.n }
}

/// Writes a plane's sums as its threads hold them: two neighbours at a time, or one where rows have an odd length.
#[cube]
pub(super) fn write_pairs<O: Float, V: Size, NC: Size>(
    sums: &Sequence<Array<Vector<f32, NC>>>,
    out: &mut Array<Vector<O, V>>,
    corner: &Corner,
    alpha: f32,
    #[comptime] plan: TilePlan,
) {
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let offset = CUBE_POS_Y * corner.m * corner.n;
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for j in 0..count_n {
            let sum = sums.index(comptime!(i * count_n + j));
            #[unroll]
            for half in 0..2usize {
                let to_row = corner.row + comptime!((i * M + half * 8) as u32) + UNIT_POS_PLANE / 4;
                let to_column = corner.column + comptime!((j * N) as u32) + UNIT_POS_PLANE % 4 * 2;
                let two = sum[half];
                let at = offset + to_row * corner.n + to_column;
                #[unroll]
                for part in 0..comptime!(2 / plan.out_vector) {
                    let mut inside = true;
                    if comptime!(plan.ragged.m) {
                        inside = to_row < corner.m;
                    }
                    if comptime!(plan.ragged.n || plan.out_vector == 1) {
                        inside = inside && to_column + (part as u32) < corner.n;
                    }
                    if inside {
                        let mut value = Vector::<f32, V>::new(0.0f32);
                        #[unroll]
                        for e in 0..comptime!(plan.out_vector) {
                            value[e] = two[comptime!(part + e)] * alpha;
                        }
                        out[((at + part as u32) / comptime!(plan.out_vector as u32)) as usize] =
                            Vector::<O, V>::cast_from(value);
                    }
                }
            }
        }
    }
}

/// Writes a plane's sums in whole vectors, rounded to the dtype of the operands. They pass through shared memory, which no plane
/// reads any more, from the threads that hold them to those that write rows.
#[cube]
pub(super) fn write_rows<F: Float, O: Float, S: Size, P: Size, V: Size, NC: Size>(
    sums: &Sequence<Array<Vector<f32, NC>>>,
    shared: &mut SharedMemory<Vector<F, S>>,
    out: &mut Array<Vector<O, V>>,
    corner: &Corner,
    alpha: f32,
    #[comptime] plan: TilePlan,
) {
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let (rows, vectors) = comptime!((count_m * M, count_n * N / ROW));
    // One vector longer than a row, so that rows begin in different banks.
    let stride = comptime!(vectors + 1);
    let first = PLANE_POS * comptime!((rows * stride) as u32);
    let whole = shared.slice_mut(first as usize, (first + comptime!((rows * stride) as u32)) as usize);
    let mut pairs = whole.with_vector_size::<P>();
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for j in 0..count_n {
            let sum = sums.index(comptime!(i * count_n + j));
            #[unroll]
            for half in 0..2usize {
                let row = comptime!((i * M + half * 8) as u32) + UNIT_POS_PLANE / 4;
                let two = sum[half];
                let mut value = Vector::<f32, P>::new(0.0f32);
                #[unroll]
                for e in 0..2usize {
                    value[e] = two[e] * alpha;
                }
                let at = (row * comptime!(stride as u32) + comptime!(j as u32)) * comptime!((ROW / 2) as u32);
                pairs[(at + UNIT_POS_PLANE % 4) as usize] = Vector::<F, P>::cast_from(value);
            }
        }
    }
    sync_plane();
    let width = comptime!(ROW as u32);
    #[unroll]
    for i in 0..comptime!(rows * vectors / PLANE) {
        let at = comptime!((i * PLANE) as u32) + UNIT_POS_PLANE;
        let (row, vector) = (at / comptime!(vectors as u32), at % comptime!(vectors as u32));
        let (to_row, to_column) = (corner.row + row, corner.column / width + vector);
        let mut inside = true;
        if comptime!(plan.ragged.m) {
            inside = to_row < corner.m;
        }
        if comptime!(plan.ragged.n) {
            inside = inside && to_column < corner.n / width;
        }
        if inside {
            let value = shared[(first + row * comptime!(stride as u32) + vector) as usize];
            out[(to_row * (corner.n / width) + to_column) as usize] = Vector::<O, V>::cast_from(value);
        }
    }
}
