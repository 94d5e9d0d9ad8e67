//! A packed `B` on the registers of matrix units: its words are read a step before they are dequantised, and that happens among the
//! products of the step before the one that needs the tile.

use cubecl::prelude::*;

use super::super::packed::{Integers, Operand, OperandExpand, Weights, integers, scaling_of, values, weights};
use super::super::registers::{Area, CopiedPart, ROW};
use super::super::tile::{Span, TilePlan, exists};
use crate::packed::cube::Scaling;

/// Operand `B` as the kernel reads it.
#[derive(CubeType)]
#[allow(dead_code, reason = "kernels construct what the macro makes of it")]
pub(super) enum Right<F: Float, S: Size> {
    Dense(Array<Vector<F, S>>),
    Packed(Ahead),
}

/// A packed matrix, and what this thread has read of its next tile.
#[derive(CubeType)]
pub(super) struct Ahead {
    weights: Weights,
    /// Three words of each of the thread's vectors, see [`Integers`].
    bits: Array<u32>,
    /// Scale and bias of each.
    scales: Array<f32>,
}

/// Which part of a tile is dequantised, and replaced by the same part of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Filled {
    /// Where it is put.
    pub stage: usize,
    pub part: usize,
    pub parts: usize,
    /// Whether the steps of both tiles are known to exist.
    pub certain: bool,
}

/// Makes an operand ready; all threads of the cube must call it.
#[cube]
pub(super) fn open<F: Float, S: Size>(b: Operand<Vector<F, S>>, #[comptime] plan: TilePlan) -> Right<F, S> {
    match b {
        Operand::Dense(array) => Right::<F, S>::new_Dense(array),
        Operand::Packed(words) => {
            let count = comptime!(plan.tile_b().held());
            let bits = Array::<u32>::new(comptime!(3 * count));
            let scales = Array::<f32>::new(comptime!(2 * count));
            Right::<F, S>::new_Packed(Ahead { weights: weights(words, false), bits, scales })
        }
    }
}

/// The tile of `B` of a step.
#[cube]
fn area_of(span: &Span, step: u32, #[comptime] plan: TilePlan) -> Area {
    let width = comptime!(ROW as u32);
    let sizes = span.sizes;
    let depth = span.begin + step * comptime!(plan.tiles.k as u32);
    if comptime!(plan.transposed_b) {
        let wide = sizes.k / width;
        Area { row: span.column, column: depth / width, rows: sizes.n, columns: wide, stride: wide }
    } else {
        let wide = sizes.n / width;
        Area { row: depth, column: span.column / width, rows: span.end, columns: wide, stride: wide }
    }
}

/// Reads this thread's words of a part of a tile; `from` is its first vector. Beyond the matrix, those of the first vector take their
/// place: what they are multiplied with is zero, or the result is not written.
#[cube]
fn read_part(ahead: &mut Ahead, from: u32, area: &Area, #[comptime] part: CopiedPart) {
    let tile = comptime!(part.tile);
    let vectors = comptime!(tile.vectors as u32);
    let step = comptime!(tile.threads / tile.vectors);
    let (r, c) = (UNIT_POS / vectors, UNIT_POS % vectors);
    let down = area.stride * comptime!(step as u32);
    #[unroll]
    for i in comptime!(part.first)..comptime!(part.end) {
        let mut number = from + down * comptime!(i as u32);
        if comptime!(tile.checked) {
            let below = comptime!((i * step) as u32);
            let exists = area.row + r + below < area.rows && area.column + c < area.columns;
            number = select(exists, number, 0u32);
        }
        let read = integers(&ahead.weights, number);
        let scaling = scaling_of(&ahead.weights, number);
        ahead.bits[comptime!(3 * i)] = read.low;
        ahead.bits[comptime!(3 * i + 1)] = read.next;
        ahead.bits[comptime!(3 * i + 2)] = read.high;
        ahead.scales[comptime!(2 * i)] = scaling.scale;
        ahead.scales[comptime!(2 * i + 1)] = scaling.bias;
    }
}

/// Dequantises what [`read_part`] read, and puts it at `to` in shared memory.
#[cube]
fn put_part<F: Float, S: Size>(
    ahead: &Ahead,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    #[comptime] part: CopiedPart,
) {
    let tile = comptime!(part.tile);
    let vectors = comptime!(tile.vectors as u32);
    let step = comptime!(tile.threads / tile.vectors);
    let (r, c) = (UNIT_POS / vectors, UNIT_POS % vectors);
    let to = to + r * comptime!(tile.stride as u32) + c;
    #[unroll]
    for i in comptime!(part.first)..comptime!(part.end) {
        let integers = Integers {
            low: ahead.bits[comptime!(3 * i)],
            next: ahead.bits[comptime!(3 * i + 1)],
            high: ahead.bits[comptime!(3 * i + 2)],
        };
        let scaling = Scaling { scale: ahead.scales[comptime!(2 * i)], bias: ahead.scales[comptime!(2 * i + 1)] };
        let value = Vector::<F, S>::cast_from(values::<S>(&ahead.weights, &integers, &scaling, 0usize));
        let at = (to + comptime!((i * step * tile.stride) as u32)) as usize;
        if comptime!((i + 1) * step > tile.rows) {
            if r + comptime!((i * step) as u32) < comptime!(tile.rows as u32) {
                shared[at] = value;
            }
        } else {
            shared[at] = value;
        }
    }
}

/// Puts the tile of step 0, and reads the words of step 1. `first` is this thread's first vector, and `further` the distance to that
/// of the next step; returns that of step 2.
#[cube]
pub(super) fn begin<F: Float, S: Size>(
    ahead: &mut Ahead,
    shared: &mut SharedMemory<Vector<F, S>>,
    first: u32,
    further: u32,
    span: &Span,
    #[comptime] plan: TilePlan,
) -> u32 {
    let whole = comptime!(plan.tile_b().copied().whole());
    read_part(ahead, first, &area_of(span, 0u32, plan), whole);
    put_part::<F, S>(ahead, shared, 0u32, whole);
    if span.steps > 1 {
        read_part(ahead, first + further, &area_of(span, 1u32, plan), whole);
    }
    first + further * 2
}

/// Among the products of a step: puts a part of the next step's tile, and reads the words of the one after that, from this thread's
/// vector `from` on.
#[cube]
pub(super) fn fill<F: Float, S: Size>(
    b: &mut Right<F, S>,
    shared: &mut SharedMemory<Vector<F, S>>,
    from: u32,
    step: u32,
    span: &Span,
    #[comptime] filled: Filled,
    #[comptime] plan: TilePlan,
) {
    match b {
        Right::Dense(_) => {}
        Right::Packed(ahead) => {
            let tile = comptime!(plan.tile_b().copied());
            let part = comptime!(tile.part(filled.part, filled.parts));
            if exists(step + 1, span, filled.certain) {
                let to = comptime!((filled.stage * tile.rows * tile.stride) as u32).runtime();
                put_part::<F, S>(ahead, shared, to, part);
            }
            // With two stages, only the next step is known to exist.
            if exists(step + 2, span, comptime!(filled.certain && plan.tiles.stages > 2)) {
                read_part(ahead, from, &area_of(span, step + 2, plan), part);
            }
        }
    }
}
