//! `hᵀ · x` over many rows, or its transposed: each plane of a cube has the same columns of `x`, and its own rows.

use cubecl::prelude::*;

use super::super::plan::PLANE;
use super::super::registers::{K, M, N, ROW, zeros};
use super::fragments::{pair, sum_of_planes};
use super::plan::{BLOCK, ThinTiles};

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ColumnsPlan {
    /// Columns of the thin operand.
    pub thin: usize,
    /// The result has a row for each of them, else for each of the wide operand's.
    pub across: bool,
    pub tiles: ThinTiles,
}

#[cube(launch_unchecked)]
pub(super) fn column_kernel<F: Float, O: Float, S: Size, P: Size>(
    wide: &Array<Vector<F, S>>,
    thin: &Array<Vector<F, P>>,
    out: &mut Array<O>,
    terms: u32,
    width: u32,
    depth: u32,
    alpha: f32,
    #[comptime] plan: ColumnsPlan,
    #[define(F)] _dtype: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);
    let (fragments, planes) = comptime!((plan.tiles.fragments, plan.tiles.planes));
    // Fragments of the thin operand, each of which has the result's eight fragments of a block.
    let heights = comptime!(plan.thin.div_ceil(M));
    let pairs = comptime!((plan.thin / 2) as u32);
    let mut sums = zeros::<NC>(comptime!(heights * ROW));
    let (g, t) = (UNIT_POS_PLANE / 4, UNIT_POS_PLANE % 4);
    let begin = CUBE_POS_Y * depth;
    let end = min(begin + depth, terms);
    let stride = width / comptime!(ROW as u32);
    let column = CUBE_POS_X * comptime!((BLOCK / ROW) as u32) + g;

    let mut first = begin + PLANE_POS * comptime!((fragments * M) as u32);
    while first < end {
        let mut held = Array::<Vector<F, S>>::new(comptime!(fragments * 4));
        let mut factors = Array::<Vector<F, P>>::new(comptime!(fragments * 4 * heights));
        #[unroll]
        for i in 0..comptime!(fragments * 4) {
            // Four rows of each fragment's sixteen.
            let row = first + comptime!((i / 4 * M + i % 4) as u32) + t * 4;
            let known = min(row, terms - 1);
            held[i] = wide[(known * stride + column) as usize];
            #[unroll]
            for j in 0..heights {
                let at = comptime!((j * M / 2) as u32) + g;
                let mut exists = row < end;
                if comptime!(plan.thin % M != 0) {
                    exists = exists && at < pairs;
                }
                let mut factor = Vector::<F, P>::new(F::new(0.0));
                if exists {
                    factor = thin[(row * pairs + at) as usize];
                }
                factors[comptime!(i * heights + j)] = factor;
            }
        }
        #[unroll]
        for i in 0..fragments {
            #[unroll]
            for n in 0..ROW {
                let mut right = Array::<Vector<F, NB>>::new(2usize);
                #[unroll]
                for e in 0..2usize {
                    let (one, other) = (held[comptime!(i * 4 + e * 2)], held[comptime!(i * 4 + e * 2 + 1)]);
                    right[e] = pair::<F, NB>(one[n], other[n]);
                }
                #[unroll]
                for j in 0..heights {
                    let mut left = Array::<Vector<F, NA>>::new(4usize);
                    #[unroll]
                    for e in 0..4usize {
                        // Both of this thread's columns, `2 g` and the next, then the same of the upper terms.
                        let at = comptime!((i * 4 + e / 2 * 2) * heights + j);
                        let (one, other) = (factors[at], factors[comptime!(at + heights)]);
                        left[e] = pair::<F, NA>(one[comptime!(e % 2)], other[comptime!(e % 2)]);
                    }
                    definition.execute_inplace(&left, &right, sums.index_mut(comptime!(j * ROW + n)));
                }
            }
        }
        first += comptime!((planes * fragments * M) as u32);
    }

    // The planes' sums, in their order. Rows begin in different banks.
    let stride = comptime!(BLOCK + 1);
    let all = comptime!(M * stride);
    let mut shared = SharedMemory::<f32>::new(comptime!(planes * all));
    let threads = comptime!(planes * PLANE);
    let own = PLANE_POS * comptime!(all as u32);
    let written = CUBE_POS_Y * width * comptime!(plan.thin as u32);
    let first_column = CUBE_POS_X * comptime!(BLOCK as u32);
    #[unroll]
    for j in 0..heights {
        #[unroll]
        for n in 0..ROW {
            let sum = sums.index(comptime!(j * ROW + n));
            #[unroll]
            for half in 0..2usize {
                let two = sum[half];
                #[unroll]
                for e in 0..2usize {
                    let column = (t * 2 + comptime!(e as u32)) * comptime!(ROW as u32) + comptime!(n as u32);
                    let row = g * 2 + comptime!(half as u32);
                    shared[(own + row * comptime!(stride as u32) + column) as usize] = two[e];
                }
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..comptime!((M * BLOCK).div_ceil(threads)) {
            let at = UNIT_POS + comptime!((i * threads) as u32);
            let (mut row, mut column) = (at / comptime!(BLOCK as u32), at % comptime!(BLOCK as u32));
            if comptime!(!plan.across) {
                row = at % comptime!(M as u32);
                column = at / comptime!(M as u32);
            }
            let of_thin = comptime!((j * M) as u32) + row;
            let mut to = of_thin * width + first_column + column;
            if comptime!(!plan.across) {
                to = (first_column + column) * comptime!(plan.thin as u32) + of_thin;
            }
            if at < comptime!((M * BLOCK) as u32) && of_thin < comptime!(plan.thin as u32) {
                let from = row * comptime!(stride as u32) + column;
                let sum = sum_of_planes(&shared, from, planes, all);
                out[(written + to) as usize] = O::cast_from(sum * alpha);
            }
        }
        sync_cube();
    }
}
