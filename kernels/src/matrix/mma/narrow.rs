//! The second pair of operands of a product: so narrow that each thread reads its own terms from memory.

use cubecl::prelude::*;

use super::super::registers::{M, N};
use super::super::tile::TilePlan;
use super::result::Corner;

/// Adds 16 terms of the second pair's product to a plane's sums, which begin at `corner` of the result.
#[cube]
pub(super) fn multiply_more<F: Float, X: Float, P: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    more_a: &Array<Vector<F, P>>,
    more_b: &Array<Vector<X, P>>,
    sums: &mut Sequence<Array<Vector<f32, NC>>>,
    corner: &Corner,
    depth: u32,
    more_k: u32,
    #[comptime] plan: TilePlan,
) {
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let thread_row = UNIT_POS_PLANE / 4;
    let thread_depth = depth + UNIT_POS_PLANE % 4 * 2;
    let mut columns = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for j in 0..count_n {
        let column = corner.column + comptime!((j * N) as u32) + thread_row;
        let mut two = Array::<Vector<F, NB>>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            let deep = thread_depth + comptime!((half * 8) as u32);
            let mut pair = Vector::<F, NB>::new(F::new(0.0));
            if column < corner.n && deep < more_k {
                if comptime!(plan.transposed_b) {
                    pair = Vector::<F, NB>::cast_from(more_b[(column * (more_k / 2) + deep / 2) as usize]);
                } else {
                    #[unroll]
                    for e in 0..2usize {
                        let neighbours = more_b[((deep + e as u32) * (corner.n / 2) + column / 2) as usize];
                        pair[e] = F::cast_from(select(column % 2 == 0, neighbours[0], neighbours[1]));
                    }
                }
            }
            two[half] = pair;
        }
        columns.push(two);
    }
    #[unroll]
    for i in 0..count_m {
        let mut four = Array::<Vector<F, NA>>::new(4usize);
        #[unroll]
        for quarter in 0..4usize {
            let row = corner.row + comptime!((i * M + quarter % 2 * 8) as u32) + thread_row;
            let deep = thread_depth + comptime!((quarter / 2 * 8) as u32);
            four[quarter] = Vector::<F, NA>::new(F::new(0.0));
            if row < corner.m && deep < more_k {
                four[quarter] = Vector::<F, NA>::cast_from(more_a[(row * (more_k / 2) + deep / 2) as usize]);
            }
        }
        #[unroll]
        for j in 0..count_n {
            definition.execute_inplace(&four, columns.index(j), sums.index_mut(comptime!(i * count_n + j)));
        }
    }
}
