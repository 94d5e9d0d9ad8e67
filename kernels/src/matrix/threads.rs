//! The product without matrix units: tiles in shared memory, and a block of sums in each thread.

use cubecl::prelude::*;

use super::tile::Sizes;

/// Rows and columns of a cube's tile.
pub(super) const TILE: usize = 64;
/// Terms that a cube adds in one step.
const DEPTH: usize = 16;
/// Threads along each side of the tile.
const SIDE: usize = 16;
/// Threads of a cube.
pub(super) const THREADS: usize = SIDE * SIDE;
/// Sums of a thread along each side.
const BLOCK: usize = TILE / SIDE;

/// How the operands are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ThreadsPlan {
    /// `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
}

/// Copies `[TILE, DEPTH]` of an operand to shared memory, with zeros where it ends; `along` is the first row of `A` or column of
/// `B`.
#[cube]
fn load<E: Float>(
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
    for i in 0..comptime!(TILE * DEPTH / THREADS) {
        let at = UNIT_POS + comptime!((i * THREADS) as u32);
        // Neighbouring threads read neighbouring elements.
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
    sizes: Sizes,
    alpha: f32,
    #[comptime] plan: ThreadsPlan,
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
    let tiles_n = sizes.n.div_ceil(tile);
    let row = CUBE_POS_X / tiles_n * tile;
    let column = CUBE_POS_X % tiles_n * tile;
    let thread_row = UNIT_POS / comptime!(SIDE as u32);
    let thread_column = UNIT_POS % comptime!(SIDE as u32);
    let end = min(CUBE_POS_Y * sizes.part + sizes.part, sizes.k);
    let mut depth = CUBE_POS_Y * sizes.part;
    while depth < end {
        load::<F>(a, &mut left, row, depth, sizes.m, sizes.k, end, plan.transposed_a);
        load::<G>(b, &mut right, column, depth, sizes.n, sizes.k, end, comptime!(!plan.transposed_b));
        sync_cube();
        accumulate(&mut sums, &left, &right, thread_row, thread_column);
        sync_cube();
        depth += comptime!(DEPTH as u32);
    }
    if comptime!(plan.more) {
        let mut depth = 0u32;
        while depth < sizes.more_k {
            load::<F>(more_a, &mut left, row, depth, sizes.m, sizes.more_k, sizes.more_k, false);
            load::<X>(more_b, &mut right, column, depth, sizes.n, sizes.more_k, sizes.more_k, comptime!(!plan.transposed_b));
            sync_cube();
            accumulate(&mut sums, &left, &right, thread_row, thread_column);
            sync_cube();
            depth += comptime!(DEPTH as u32);
        }
    }
    #[unroll]
    for i in 0..BLOCK {
        #[unroll]
        for j in 0..BLOCK {
            let to_row = row + thread_row + comptime!((i * SIDE) as u32);
            let to_column = column + thread_column + comptime!((j * SIDE) as u32);
            if to_row < sizes.m && to_column < sizes.n {
                let to = CUBE_POS_Y * sizes.m * sizes.n + to_row * sizes.n + to_column;
                out[to as usize] = O::cast_from(sums[comptime!(i * BLOCK + j)] * alpha);
            }
        }
    }
}
