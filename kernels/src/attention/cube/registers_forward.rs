//! The forward on matrix units whose registers a kernel can access.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::registers::{
    Both, Corner, RegisterTiles, accumulate, copy_both, copy_rows, hide, own_rows, products, quick_exp, row_of, write_sums,
};
use super::scores::{HIDDEN, Head, Sight, Sizes, all_seen, key_range, next_keys, query_block, score};
use crate::matrix::registers::{K, M, N, commit, zeros};

/// How far a row's maximum may grow before the sums are rescaled: weights stay below e⁸, well within the range of f16.
const SLACK: f32 = 8.0;
/// Less than any score. Scores of a row that has seen no key yet are compared with it and not with themselves: a fused multiply-add does
/// not round `HIDDEN * factor`, but the stored maximum was rounded, so their difference is not 0.
const LEAST: f32 = -1.0e20;

/// Replaces products by capped scores.
#[cube]
fn cap<NC: Size>(
    products: &mut Sequence<Array<Vector<f32, NC>>>,
    sizes: &Sizes,
    #[comptime] tiles: RegisterTiles,
    #[comptime] sight: Sight,
) {
    #[unroll]
    for j in 0..comptime!(tiles.fragments * tiles.columns / N) {
        let fragment = products.index_mut(j);
        #[unroll]
        for half in 0..2usize {
            let mut two = fragment[half];
            #[unroll]
            for e in 0..2usize {
                let (own_score, _slope) = score(two[e], sizes, sight);
                two[e] = own_score;
            }
            fragment[half] = two;
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn forward_kernel<F: Float, I: Int, S: Size, V: Size>(
    query: &Array<Vector<F, S>>,
    key: &Array<Vector<F, S>>,
    value: &Array<Vector<F, S>>,
    segments: &Array<I>,
    out: &mut Array<Vector<F, V>>,
    log_sums: &mut Array<f32>,
    sizes: Sizes,
    #[comptime] tiles: RegisterTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let rows = comptime!(tiles.rows());
    let stage = comptime!(tiles.stage() as u32);
    let mut own_tile = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(rows * tiles.stride()), 16usize);
    let mut shared = Both::<F, S> {
        one: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(2 * tiles.stage()), 16usize),
        other: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(2 * tiles.stage()), 16usize),
    };
    let own_barrier = Barrier::shared(comptime!(tiles.planes as u32).runtime(), UNIT_POS == 0);
    let barrier = Barrier::shared(comptime!(tiles.planes as u32).runtime(), UNIT_POS == 0);
    sync_cube();
    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);

    let block = query_block(sizes, rows, comptime!(tiles.vectors()));
    let (begin, end) = key_range(block.first, block.first + comptime!(rows as u32), &sizes, sight);
    let columns = comptime!(tiles.columns as u32);
    let mut column = next_keys::<I>(segments, &block.mask, begin / columns * columns, end, block.first, columns, sight);

    copy_rows::<F, S>(query, &block.queries, block.first, &mut own_tile, 0u32, rows, tiles);
    commit(&own_barrier);
    copy_both::<F, S>(key, value, &block.keys, column, &mut shared, 0u32, tiles.columns, tiles);
    commit(&barrier);
    own_barrier.wait_parity(0u32);
    let own = own_rows::<F, S, NA>(&definition, &own_tile, tiles);

    let mut sums = zeros::<NC>(comptime!(tiles.fragments * tiles.head_dim / N));
    let mut largest = Array::<f32>::new(comptime!(tiles.fragments * 2));
    let mut total = Array::<f32>::new(comptime!(tiles.fragments * 2));
    #[unroll]
    for i in 0..comptime!(tiles.fragments * 2) {
        largest[i] = f32::new(HIDDEN);
        total[i] = 0.0f32;
    }
    // The factor from a product to its score; capped scores need none.
    let factor = if comptime!(sight.softcap) { 1.0f32.runtime() } else { sizes.scale };
    let mut parity = 0u32;
    while column < end {
        let next = next_keys::<I>(segments, &block.mask, column + columns, end, block.first, columns, sight);
        barrier.wait_parity(parity);
        // No thread reads the tiles any more that are filled next.
        sync_cube();
        if next < end {
            let ahead = (1 - parity) * stage;
            copy_both::<F, S>(key, value, &block.keys, next, &mut shared, ahead, tiles.columns, tiles);
        }
        commit(&barrier);
        let mut scores = products::<F, S, NA, NB, NC>(&definition, &own, &shared.one, parity * stage, tiles);
        if comptime!(sight.softcap) {
            cap::<NC>(&mut scores, &sizes, tiles, sight);
        }
        if !all_seen::<I>(segments, &block.mask, block.first, comptime!(rows as u32), column, columns, sight) {
            let corner = Corner { row: block.first, column };
            hide::<I, NC>(&mut scores, f32::new(HIDDEN), segments, &block.mask, &corner, false, tiles, sight);
        }
        let mut grown = false;
        let mut top = Array::<f32>::new(comptime!(tiles.fragments * 2));
        #[unroll]
        for i in 0..comptime!(tiles.fragments * 2) {
            let mut own_top = f32::new(HIDDEN);
            #[unroll]
            for j in 0..comptime!(tiles.columns / N) {
                let two = scores.index(comptime!(i / 2 * (tiles.columns / N) + j))[comptime!(i % 2)];
                own_top = max(own_top, max(two[0], two[1]));
            }
            // Over the four threads of a row.
            #[unroll]
            for s in 0..2usize {
                own_top = max(own_top, plane_shuffle_xor(own_top, comptime!(1u32 << s)));
            }
            top[i] = own_top * factor;
            grown = grown || top[i] > largest[i] + SLACK;
        }
        // Sums are rescaled only once a maximum has grown much; then all rows of the plane are.
        if plane_max(u32::cast_from(grown)) > 0 {
            #[unroll]
            for i in 0..comptime!(tiles.fragments * 2) {
                let newest = max(largest[i], top[i]);
                let shrink = quick_exp(largest[i] - newest);
                largest[i] = newest;
                total[i] *= shrink;
                #[unroll]
                for j in 0..comptime!(tiles.head_dim / N) {
                    let fragment = sums.index_mut(comptime!(i / 2 * (tiles.head_dim / N) + j));
                    fragment[comptime!(i % 2)] = fragment[comptime!(i % 2)] * Vector::<f32, NC>::new(shrink);
                }
            }
        }
        #[unroll]
        for i in 0..comptime!(tiles.fragments * 2) {
            let own_largest = max(largest[i], f32::new(LEAST));
            #[unroll]
            for j in 0..comptime!(tiles.columns / N) {
                let fragment = scores.index_mut(comptime!(i / 2 * (tiles.columns / N) + j));
                let mut two = fragment[comptime!(i % 2)];
                #[unroll]
                for e in 0..2usize {
                    two[e] = quick_exp(two[e] * factor - own_largest);
                    total[i] += two[e];
                }
                fragment[comptime!(i % 2)] = two;
            }
        }
        accumulate::<F, S, NA, NB, NC>(&definition, &scores, &shared.other, parity * stage, &mut sums, tiles);
        column = next;
        parity = 1 - parity;
    }

    let mut factors = Array::<f32>::new(comptime!(tiles.fragments * 2));
    #[unroll]
    for i in 0..tiles.fragments {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(i * 2 + half);
            let mut whole = total[at];
            #[unroll]
            for s in 0..2usize {
                whole += plane_shuffle_xor(whole, comptime!(1u32 << s));
            }
            let whole = max(whole, 1.0e-30f32);
            factors[at] = 1.0f32 / whole;
            let row = block.first + row_of(i, half, tiles);
            if UNIT_POS_PLANE % 4 == 0 && row < sizes.queries {
                let to = block.statistics + row;
                log_sums[to as usize] = largest[at] + f32::ln(whole);
            }
        }
    }
    // Results are written in vectors of two.
    let vectors = comptime!((tiles.head_dim / 2) as u32);
    let head = Head {
        offset: block.batch * sizes.queries * sizes.heads * vectors + block.head * vectors,
        length: sizes.queries,
        stride: sizes.heads * vectors,
    };
    write_sums::<F, V, NC>(&sums, &factors, out, &head, block.first, tiles);
}
