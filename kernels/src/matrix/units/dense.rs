//! The product of dense operands: an operation reads both from where they are, over the whole sum.

use cubecl::prelude::*;

use super::super::packed::kept;
use super::super::tile::{Sizes, tile_of_cube};
use super::marks::{Part, begin, multiply, write};
use super::plan::UnitPlan;

/// Where a cube's tile of the result begins.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Corner {
    pub row: u32,
    pub column: u32,
}

/// The tile of this cube.
#[cube]
pub(super) fn corner(sizes: Sizes, #[comptime] plan: UnitPlan) -> Corner {
    let (tile_m, tile_n) = comptime!((plan.tiles.m as u32, plan.tiles.n as u32));
    let (at_m, at_n) = tile_of_cube(sizes.m.div_ceil(tile_m), sizes.n.div_ceil(tile_n), plan.band);
    Corner { row: kept(at_m * tile_m), column: kept(at_n * tile_n) }
}

/// The part of `A` from a depth on; `A` has so many terms.
#[cube]
pub(super) fn left_part(sizes: Sizes, corner: Corner, depth: u32, terms: u32, #[comptime] transposed: bool) -> Part {
    let lines = kept(sizes.m - corner.row);
    if comptime!(transposed) {
        Part { first: kept(depth * sizes.m + corner.row), stride: kept(sizes.m), lines }
    } else {
        Part { first: kept(corner.row * terms + depth), stride: kept(terms), lines }
    }
}

/// The part of a dense `B` in device memory from a depth on; `B` has so many terms.
#[cube]
fn right_part(sizes: Sizes, corner: Corner, depth: u32, terms: u32, #[comptime] transposed: bool) -> Part {
    let lines = kept(sizes.n - corner.column);
    if comptime!(transposed) {
        Part { first: kept(corner.column * terms + depth), stride: kept(terms), lines }
    } else {
        Part { first: kept(depth * sizes.n + corner.column), stride: kept(sizes.n), lines }
    }
}

/// Writes the tile of this cube, of its part of the sum.
#[cube]
pub(super) fn write_tile<O: Float>(out: &mut Array<O>, sizes: Sizes, corner: Corner, alpha: f32) {
    let first = kept((CUBE_POS_Y * sizes.m + corner.row) * sizes.n + corner.column);
    let part = Part { first, stride: kept(sizes.n), lines: kept(sizes.m - corner.row) };
    write::<O>(out, part, kept(sizes.n - corner.column), alpha);
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, O: Float>(
    a: &Array<F>,
    b: &Array<F>,
    more_a: &Array<F>,
    more_b: &Array<F>,
    out: &mut Array<O>,
    sizes: Sizes,
    alpha: f32,
    #[comptime] plan: UnitPlan,
    #[define(F)] _dtype: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let corner = corner(sizes, plan);
    begin::<F, F>(a, b, plan);
    let depth = kept(CUBE_POS_Y * sizes.part);
    let terms = kept(min(sizes.part, sizes.k - depth));
    let left = left_part(sizes, corner, depth, sizes.k, plan.transposed_a);
    let right = right_part(sizes, corner, depth, sizes.k, plan.transposed_b);
    multiply::<F, F>(a, b, left, right, terms, plan);
    if comptime!(plan.more) {
        let none = 0u32.runtime();
        let left = left_part(sizes, corner, none, sizes.more_k, plan.transposed_a);
        let right = right_part(sizes, corner, none, sizes.more_k, plan.transposed_b);
        multiply::<F, F>(more_a, more_b, left, right, kept(sizes.more_k), plan);
    }
    write_tile::<O>(out, sizes, corner, alpha);
}
