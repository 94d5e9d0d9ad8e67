//! The product without matrix units: tiles in shared memory, and a block of sums in each thread.

use cubecl::prelude::*;

use super::packed::{EIGHT, Operand, Source, SourceExpand, Weights, integers, open, scaling_of, values};
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

/// As [`load`], of a packed `B`, whose weights are rounded to the dtype of `A`. Half of the threads read eight elements each.
#[cube]
fn load_packed<F: Float>(
    weights: &Weights,
    shared: &mut SharedMemory<f32>,
    along: u32,
    depth: u32,
    alongs: u32,
    depths: u32,
    end: u32,
    #[comptime] depth_first: bool,
) {
    let eight = comptime!(EIGHT as u32);
    if UNIT_POS < comptime!((TILE * DEPTH / EIGHT) as u32) {
        let (x, d) = if comptime!(depth_first) {
            let across = comptime!((TILE / EIGHT) as u32);
            (UNIT_POS % across * eight, UNIT_POS / across)
        } else {
            let across = comptime!((DEPTH / EIGHT) as u32);
            (UNIT_POS / across, UNIT_POS % across * eight)
        };
        let inside = along + x < alongs && depth + d < end;
        let from = if comptime!(depth_first) { (depth + d) * alongs + along + x } else { (along + x) * depths + depth + d };
        let number = select(inside, from / eight, 0u32);
        let integers = integers(weights, number);
        let scaling = scaling_of(weights, number);
        let to = x * comptime!((DEPTH + 1) as u32) + d;
        #[unroll]
        for part in 0..2usize {
            let four =
                Vector::<F, Const<4>>::cast_from(values::<Const<4>>(weights, &integers, &scaling, comptime!(part * 4)));
            #[unroll]
            for lane in 0..4usize {
                let e = comptime!((part * 4 + lane) as u32);
                let at = if comptime!(depth_first) { to + e * comptime!((DEPTH + 1) as u32) } else { to + e };
                shared[at as usize] = select(inside, f32::cast_from(four[lane]), 0.0f32);
            }
        }
    }
}

/// The tile of `B` of a step, of whichever kind it is.
#[cube]
fn load_b<F: Float, G: Float>(
    source: &Source<G>,
    shared: &mut SharedMemory<f32>,
    column: u32,
    depth: u32,
    sizes: &Sizes,
    end: u32,
    #[comptime] transposed: bool,
) {
    match source {
        Source::Dense(b) => load::<G>(b, shared, column, depth, sizes.n, sizes.k, end, comptime!(!transposed)),
        Source::Packed(b) => load_packed::<F>(b, shared, column, depth, sizes.n, sizes.k, end, comptime!(!transposed)),
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
    b: Operand<G>,
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
    let b = open::<G>(b);
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
        load_b::<F, G>(&b, &mut right, column, depth, &sizes, end, plan.transposed_b);
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
