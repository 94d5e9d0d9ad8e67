//! The product without matrix units: a tile in shared memory, a block of sums a unit.

use cubecl::prelude::*;

/// Rows and columns of a cube's tile.
pub(super) const TILE: usize = 64;
/// Depth of a tile.
const DEPTH: usize = 16;
/// Units along each side.
const SIDE: usize = 16;
/// Units of a cube.
pub(super) const UNITS: usize = SIDE * SIDE;
/// Sums of a unit along each side.
const BLOCK: usize = TILE / SIDE;

/// How the operands lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LanesPlan {
    /// `A` lies as `[k, m]`.
    pub transposed_a: bool,
    /// `B` lies as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
}

/// Brings `[TILE, DEPTH]` of an operand to shared memory, zeros where it ends; `along` runs over rows of `A` or columns of `B`.
#[cube]
fn bring<E: Float>(
    source: &Array<E>,
    shared: &mut SharedMemory<f32>,
    along: u32,
    depth: u32,
    alongs: u32,
    depths: u32,
    end: u32,
    #[comptime] depth_first: bool,
) {
    #[unroll]
    for i in 0..comptime!(TILE * DEPTH / UNITS) {
        let at = UNIT_POS + comptime!((i * UNITS) as u32);
        // Neighbouring units read neighbouring elements.
        let (x, d) = if comptime!(depth_first) {
            (at % comptime!(TILE as u32), at / comptime!(TILE as u32))
        } else {
            (at / comptime!(DEPTH as u32), at % comptime!(DEPTH as u32))
        };
        let mut value = 0.0f32;
        if along + x < alongs && depth + d < end {
            let from =
                if comptime!(depth_first) { (depth + d) * alongs + along + x } else { (along + x) * depths + depth + d };
            value = f32::cast_from(source[from as usize]);
        }
        shared[(x * comptime!((DEPTH + 1) as u32) + d) as usize] = value;
    }
}

#[cube]
fn accumulate(sums: &mut Array<f32>, left: &SharedMemory<f32>, right: &SharedMemory<f32>, row: u32, column: u32) {
    for d in 0..comptime!(DEPTH as u32) {
        #[unroll]
        for i in 0..BLOCK {
            let x = left[((row + comptime!((i * SIDE) as u32)) * comptime!((DEPTH + 1) as u32) + d) as usize];
            #[unroll]
            for j in 0..BLOCK {
                let y = right[((column + comptime!((j * SIDE) as u32)) * comptime!((DEPTH + 1) as u32) + d) as usize];
                sums[comptime!(i * BLOCK + j)] += x * y;
            }
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, G: Float, X: Float, O: Float>(
    a: &Array<F>,
    b: &Array<G>,
    more_a: &Array<F>,
    more_b: &Array<X>,
    out: &mut Array<O>,
    m: u32,
    n: u32,
    k: u32,
    more_k: u32,
    part: u32,
    alpha: f32,
    #[comptime] plan: LanesPlan,
    #[define(F)] _dtype: StorageType,
    #[define(G)] _dtype_b: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let mut left = SharedMemory::<f32>::new(comptime!(TILE * (DEPTH + 1)));
    let mut right = SharedMemory::<f32>::new(comptime!(TILE * (DEPTH + 1)));
    let mut sums = Array::<f32>::new(comptime!(BLOCK * BLOCK));
    #[unroll]
    for i in 0..comptime!(BLOCK * BLOCK) {
        sums[i] = 0.0f32;
    }
    let tile = comptime!(TILE as u32);
    let tiles_n = n.div_ceil(tile);
    let row = CUBE_POS_X / tiles_n * tile;
    let column = CUBE_POS_X % tiles_n * tile;
    let unit_row = UNIT_POS / comptime!(SIDE as u32);
    let unit_column = UNIT_POS % comptime!(SIDE as u32);
    let end = min(CUBE_POS_Y * part + part, k);
    let mut depth = CUBE_POS_Y * part;
    while depth < end {
        bring::<F>(a, &mut left, row, depth, m, k, end, plan.transposed_a);
        bring::<G>(b, &mut right, column, depth, n, k, end, comptime!(!plan.transposed_b));
        sync_cube();
        accumulate(&mut sums, &left, &right, unit_row, unit_column);
        sync_cube();
        depth += comptime!(DEPTH as u32);
    }
    if comptime!(plan.more) {
        let mut depth = 0u32;
        while depth < more_k {
            bring::<F>(more_a, &mut left, row, depth, m, more_k, more_k, false);
            bring::<X>(more_b, &mut right, column, depth, n, more_k, more_k, comptime!(!plan.transposed_b));
            sync_cube();
            accumulate(&mut sums, &left, &right, unit_row, unit_column);
            sync_cube();
            depth += comptime!(DEPTH as u32);
        }
    }
    #[unroll]
    for i in 0..BLOCK {
        #[unroll]
        for j in 0..BLOCK {
            let to_row = row + unit_row + comptime!((i * SIDE) as u32);
            let to_column = column + unit_column + comptime!((j * SIDE) as u32);
            if to_row < m && to_column < n {
                let to = CUBE_POS_Y * m * n + to_row * n + to_column;
                out[to as usize] = O::cast_from(sums[comptime!(i * BLOCK + j)] * alpha);
            }
        }
    }
}
