//! The backward on matrix units whose registers a kernel can access: for queries, and for keys and values.

use cubecl::prelude::barrier::{Barrier, copy_async_checked};
use cubecl::prelude::*;

use super::registers::{
    Both, Corner, RegisterTiles, accumulate, copy_both, hide, own_rows, products, quick_exp, row_of, write_sums,
};
use super::scores::{
    Head, Mask, Sight, Sizes, all_seen, key_range, next_keys, next_queries, query_block, query_range, score,
};
use crate::matrix::registers::{K, M, N, commit, zeros};

/// `P = exp(S - L)` of a product, and `dS = P (dP - D)` times the score's slope, without the scale: the sums are multiplied by that.
#[cube]
fn weight_and_slope(product: f32, log_sum: f32, d_weight: f32, sizes: &Sizes, #[comptime] sight: Sight) -> (f32, f32) {
    if comptime!(sight.softcap) {
        let (own_score, slope) = score(product, sizes, sight);
        let weight = quick_exp(own_score - log_sum);
        (weight, weight * d_weight * (slope / sizes.scale))
    } else {
        let weight = quick_exp(product * sizes.scale - log_sum);
        (weight, weight * d_weight)
    }
}

/// `dQ = dS K`, with `dS = P (dP - D)` times the score's slope, `P = exp(S - L)`, `dP = dO Vᵀ`.
#[cube(launch_unchecked)]
pub(super) fn query_kernel<F: Float, I: Int, S: Size, V: Size>(
    query: &Array<Vector<F, S>>,
    key: &Array<Vector<F, S>>,
    value: &Array<Vector<F, S>>,
    grad: &Array<Vector<F, S>>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_query: &mut Array<Vector<F, V>>,
    sizes: Sizes,
    #[comptime] tiles: RegisterTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let rows = comptime!(tiles.rows());
    let stage = comptime!(tiles.stage() as u32);
    // Query and gradient, keys and values.
    let mut own = Both::<F, S> {
        one: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(rows * tiles.stride()), 16usize),
        other: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(rows * tiles.stride()), 16usize),
    };
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

    copy_both::<F, S>(query, grad, &block.queries, block.first, &mut own, 0u32, rows, tiles);
    commit(&own_barrier);
    copy_both::<F, S>(key, value, &block.keys, column, &mut shared, 0u32, tiles.columns, tiles);
    commit(&barrier);

    let mut log_sum = Array::<f32>::new(comptime!(tiles.fragments * 2));
    let mut delta = Array::<f32>::new(comptime!(tiles.fragments * 2));
    #[unroll]
    for i in 0..comptime!(tiles.fragments * 2) {
        let row = min(block.first + row_of(comptime!(i / 2), comptime!(i % 2), tiles), sizes.queries - 1);
        log_sum[i] = log_sums[(block.statistics + row) as usize];
        delta[i] = deltas[(block.statistics + row) as usize];
    }
    own_barrier.wait_parity(0u32);
    let own_query = own_rows::<F, S, NA>(&definition, &own.one, tiles);
    let own_grad = own_rows::<F, S, NA>(&definition, &own.other, tiles);
    let mut sums = zeros::<NC>(comptime!(tiles.fragments * tiles.head_dim / N));
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
        let scores = products::<F, S, NA, NB, NC>(&definition, &own_query, &shared.one, parity * stage, tiles);
        let mut slopes = products::<F, S, NA, NB, NC>(&definition, &own_grad, &shared.other, parity * stage, tiles);
        #[unroll]
        for i in 0..comptime!(tiles.fragments * 2) {
            #[unroll]
            for j in 0..comptime!(tiles.columns / N) {
                let at = comptime!(i / 2 * (tiles.columns / N) + j);
                let two = scores.index(at)[comptime!(i % 2)];
                let fragment = slopes.index_mut(at);
                let mut slope = fragment[comptime!(i % 2)];
                #[unroll]
                for e in 0..2usize {
                    slope[e] = weight_and_slope(two[e], log_sum[i], slope[e] - delta[i], &sizes, sight).1;
                }
                fragment[comptime!(i % 2)] = slope;
            }
        }
        if !all_seen::<I>(segments, &block.mask, block.first, comptime!(rows as u32), column, columns, sight) {
            let corner = Corner { row: block.first, column };
            hide::<I, NC>(&mut slopes, 0.0f32, segments, &block.mask, &corner, false, tiles, sight);
        }
        accumulate::<F, S, NA, NB, NC>(&definition, &slopes, &shared.one, parity * stage, &mut sums, tiles);
        column = next;
        parity = 1 - parity;
    }
    let factors = alike(sizes.scale, tiles);
    // Gradients are written in vectors of two.
    let vectors = comptime!((tiles.head_dim / 2) as u32);
    let head = Head {
        offset: block.batch * sizes.queries * sizes.heads * vectors + block.head * vectors,
        length: sizes.queries,
        stride: sizes.heads * vectors,
    };
    write_sums::<F, V, NC>(&sums, &factors, d_query, &head, block.first, tiles);
}

/// The same factor for each row.
#[cube]
fn alike(factor: f32, #[comptime] tiles: RegisterTiles) -> Array<f32> {
    let mut factors = Array::<f32>::new(comptime!(tiles.fragments * 2));
    #[unroll]
    for i in 0..comptime!(tiles.fragments * 2) {
        factors[i] = factor;
    }
    factors
}

/// Begins the copies of the statistics of queries `first…`.
#[cube]
fn copy_statistics(
    source: &Array<f32>,
    offset: u32,
    first: u32,
    end: u32,
    shared: &mut SharedMemory<f32>,
    base: u32,
    #[comptime] tiles: RegisterTiles,
) {
    if UNIT_POS < comptime!(tiles.columns as u32) {
        let exists = first + UNIT_POS < end;
        let from = select(exists, offset + first + UNIT_POS, 0u32) as usize;
        let length = select(exists, 1u32, 0u32) as usize;
        let to = (base + UNIT_POS) as usize;
        copy_async_checked(&source.slice(from, from + length), &mut shared.slice_mut(to, to + 1), 1u32);
    }
}

/// `dK = dSᵀ Q` and `dV = Pᵀ dO`, over all query heads of a key-value head.
#[cube(launch_unchecked)]
pub(super) fn key_kernel<F: Float, I: Int, S: Size, V: Size>(
    query: &Array<Vector<F, S>>,
    key: &Array<Vector<F, S>>,
    value: &Array<Vector<F, S>>,
    grad: &Array<Vector<F, S>>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_key: &mut Array<Vector<F, V>>,
    d_value: &mut Array<Vector<F, V>>,
    sizes: Sizes,
    #[comptime] tiles: RegisterTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let rows = comptime!(tiles.rows());
    let stage = comptime!(tiles.stage() as u32);
    let columns = comptime!(tiles.columns as u32);
    // Keys and values, queries and gradients.
    let mut own = Both::<F, S> {
        one: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(rows * tiles.stride()), 16usize),
        other: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(rows * tiles.stride()), 16usize),
    };
    let mut shared = Both::<F, S> {
        one: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(2 * tiles.stage()), 16usize),
        other: SharedMemory::<Vector<F, S>>::new_aligned(comptime!(2 * tiles.stage()), 16usize),
    };
    let mut log_sum = SharedMemory::<f32>::new_aligned(comptime!(2 * tiles.columns), 16usize);
    let mut delta = SharedMemory::<f32>::new_aligned(comptime!(2 * tiles.columns), 16usize);
    let own_barrier = Barrier::shared(comptime!(tiles.planes as u32).runtime(), UNIT_POS == 0);
    let barrier = Barrier::shared(comptime!(tiles.planes as u32).runtime(), UNIT_POS == 0);
    sync_cube();
    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);

    let (key_value_head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = CUBE_POS_X * comptime!(rows as u32);
    let vectors = comptime!(tiles.vectors() as u32);
    let query_stride = sizes.heads * vectors;
    let key_stride = sizes.key_value_heads * vectors;
    let own_head =
        Head { offset: batch * sizes.keys * key_stride + key_value_head * vectors, length: sizes.keys, stride: key_stride };
    let mask = Mask { ids: batch * sizes.keys, sizes };
    copy_both::<F, S>(key, value, &own_head, first, &mut own, 0u32, rows, tiles);
    commit(&own_barrier);
    own_barrier.wait_parity(0u32);
    let own_key = own_rows::<F, S, NA>(&definition, &own.one, tiles);
    let own_value = own_rows::<F, S, NA>(&definition, &own.other, tiles);

    let mut key_sums = zeros::<NC>(comptime!(tiles.fragments * tiles.head_dim / N));
    let mut value_sums = zeros::<NC>(comptime!(tiles.fragments * tiles.head_dim / N));
    let last_key = min(first + comptime!(rows as u32), sizes.keys);
    let (begin, end) = query_range(first, last_key, &sizes, sight);
    let begin = next_queries::<I>(segments, &mask, begin / columns * columns, end, last_key, sight);
    let group = sizes.heads / sizes.key_value_heads;
    // Where no query sees the keys there is nothing to copy: the device fails if a cube ends before its copies do.
    let members = select(begin < end, group, 0u32);
    let mut parity = 0u32;
    for member in 0..members {
        let head = key_value_head * group + member;
        let queries = Head {
            offset: batch * sizes.queries * query_stride + head * vectors,
            length: sizes.queries,
            stride: query_stride,
        };
        let statistics = (batch * sizes.heads + head) * sizes.queries;
        let mut column = begin;
        // The last tile of the previous head may still be read.
        sync_cube();
        let now = parity * stage;
        copy_both::<F, S>(query, grad, &queries, column, &mut shared, now, tiles.columns, tiles);
        copy_statistics(log_sums, statistics, column, sizes.queries, &mut log_sum, parity * columns, tiles);
        copy_statistics(deltas, statistics, column, sizes.queries, &mut delta, parity * columns, tiles);
        commit(&barrier);
        while column < end {
            let next = next_queries::<I>(segments, &mask, column + columns, end, last_key, sight);
            barrier.wait_parity(parity);
            sync_cube();
            let (now, ahead) = (parity * stage, (1 - parity) * stage);
            if next < end {
                let to = (1 - parity) * columns;
                copy_both::<F, S>(query, grad, &queries, next, &mut shared, ahead, tiles.columns, tiles);
                copy_statistics(log_sums, statistics, next, sizes.queries, &mut log_sum, to, tiles);
                copy_statistics(deltas, statistics, next, sizes.queries, &mut delta, to, tiles);
                commit(&barrier);
            }
            let mut weights = products::<F, S, NA, NB, NC>(&definition, &own_key, &shared.one, now, tiles);
            let mut slopes = products::<F, S, NA, NB, NC>(&definition, &own_value, &shared.other, now, tiles);
            #[unroll]
            for j in 0..comptime!(tiles.columns / N) {
                #[unroll]
                for e in 0..2usize {
                    let c = comptime!((j * N + e) as u32) + UNIT_POS_PLANE % 4 * 2;
                    let own_log_sum = log_sum[(parity * columns + c) as usize];
                    let own_delta = delta[(parity * columns + c) as usize];
                    #[unroll]
                    for i in 0..comptime!(tiles.fragments * 2) {
                        let at = comptime!(i / 2 * (tiles.columns / N) + j);
                        let weight = weights.index_mut(at);
                        let slope = slopes.index_mut(at);
                        let mut two = weight[comptime!(i % 2)];
                        let mut own_slope = slope[comptime!(i % 2)];
                        let (p, ds) = weight_and_slope(two[e], own_log_sum, own_slope[e] - own_delta, &sizes, sight);
                        two[e] = p;
                        own_slope[e] = ds;
                        weight[comptime!(i % 2)] = two;
                        slope[comptime!(i % 2)] = own_slope;
                    }
                }
            }
            if !all_seen::<I>(segments, &mask, column, columns, first, comptime!(rows as u32), sight) {
                let corner = Corner { row: first, column };
                hide::<I, NC>(&mut weights, 0.0f32, segments, &mask, &corner, true, tiles, sight);
                hide::<I, NC>(&mut slopes, 0.0f32, segments, &mask, &corner, true, tiles, sight);
            }
            accumulate::<F, S, NA, NB, NC>(&definition, &weights, &shared.other, now, &mut value_sums, tiles);
            accumulate::<F, S, NA, NB, NC>(&definition, &slopes, &shared.one, now, &mut key_sums, tiles);
            column = next;
            parity = 1 - parity;
        }
    }
    let (key_factors, value_factors) = (alike(sizes.scale, tiles), alike(1.0f32, tiles));
    let vectors = comptime!((tiles.head_dim / 2) as u32);
    let head = Head {
        offset: batch * sizes.keys * sizes.key_value_heads * vectors + key_value_head * vectors,
        length: sizes.keys,
        stride: sizes.key_value_heads * vectors,
    };
    write_sums::<F, V, NC>(&key_sums, &key_factors, d_key, &head, first, tiles);
    write_sums::<F, V, NC>(&value_sums, &value_factors, d_value, &head, first, tiles);
}
