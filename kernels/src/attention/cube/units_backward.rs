//! The backward on matrix units: for queries, and for keys and values.

use cubecl::prelude::*;

use super::scores::{Sight, Sizes, all_seen, key_range, next_keys, next_queries, query_place, query_range, score, sees};
use super::units::{AttentionTiles, accumulate, bring, fetch, leave, own_rows, products, put_tile, zeros};

/// Weights and slopes of a plane's scores: `P = exp(S - L)` and `dS = P (dP - D)` times the score's slope.
///
/// Rows are queries, or keys where `by_key`.
#[cube]
fn slopes<I: Int>(
    scores: &SharedMemory<f32>,
    d_weights: &SharedMemory<f32>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    segments: &Array<I>,
    weight: &mut Array<f32>,
    slope: &mut Array<f32>,
    base: u32,
    statistics: u32,
    row: u32,
    own_row: u32,
    column: u32,
    inside: bool,
    sizes: &Sizes,
    #[comptime] by_key: bool,
    #[comptime] tiles: AttentionTiles,
    #[comptime] sight: Sight,
) {
    let part = UNIT_POS_PLANE % comptime!(tiles.sharing() as u32);
    #[unroll]
    for i in 0..comptime!(tiles.columns / tiles.sharing()) {
        let c = part + comptime!((i * tiles.sharing()) as u32);
        let place = (own_row * comptime!(tiles.score_stride() as u32) + c) as usize;
        let (own_score, own_slope) = score(scores[place], sizes, sight);
        let (query, key) = if comptime!(by_key) { (column + c, row) } else { (row, column + c) };
        weight[i] = 0.0f32;
        slope[i] = 0.0f32;
        let mut seen = inside;
        if !inside {
            seen = sees::<I>(segments, base, query, key, sizes, sight);
        }
        if seen {
            let at = (statistics + query) as usize;
            let p = f32::exp(own_score - log_sums[at]);
            weight[i] = p;
            slope[i] = p * (d_weights[place] - deltas[at]) * own_slope;
        }
    }
}

/// Writes a lane's numbers to its plane's part of the weights.
#[cube]
fn put<F: Float>(from: &Array<f32>, weights: &mut SharedMemory<F>, own_row: u32, #[comptime] tiles: AttentionTiles) {
    let part = UNIT_POS_PLANE % comptime!(tiles.sharing() as u32);
    #[unroll]
    for i in 0..comptime!(tiles.columns / tiles.sharing()) {
        let c = part + comptime!((i * tiles.sharing()) as u32);
        weights[(own_row * comptime!(tiles.weight_stride() as u32) + c) as usize] = F::cast_from(from[i]);
    }
}

/// `dQ = dS K`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn query_kernel<F: Float, I: Int, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    value: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_query: &mut Array<F>,
    sizes: Sizes,
    #[comptime] tiles: AttentionTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let f = comptime!(tiles.fragment);
    let rows = comptime!(tiles.rows());
    let shared = comptime!(tiles.columns.max(rows) * tiles.stride() / tiles.vector);
    let mut tile_k = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut tile_v = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut scores = SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize);
    let mut d_weights = SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize);
    let mut weights = SharedMemory::<F>::new_aligned(comptime!(rows * tiles.weight_stride()), 32usize);
    let mut factors = SharedMemory::<f32>::new(rows);

    let place = query_place(&sizes, rows, comptime!(tiles.head_dim / tiles.vector));

    bring::<F, N>(query, &mut tile_k, place.query_offset, place.first, sizes.queries, place.query_stride, rows, tiles);
    bring::<F, N>(grad, &mut tile_v, place.query_offset, place.first, sizes.queries, place.query_stride, rows, tiles);
    sync_cube();
    let own_query = own_rows::<F, N>(&tile_k, tiles);
    let own_grad = own_rows::<F, N>(&tile_v, tiles);
    sync_cube();

    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tiles.head_dim / f.n) {
        sums.push(zeros(tiles));
    }
    let sharing = comptime!(tiles.sharing() as u32);
    let own_row = PLANE_POS * comptime!(f.m as u32) + UNIT_POS_PLANE / sharing;
    let row = place.first + own_row;
    let (begin, end) = key_range(place.first, place.first + comptime!(rows as u32), &sizes, sight);
    let columns = comptime!(tiles.columns as u32);
    let mut column = next_keys::<I>(segments, place.base, begin / columns * columns, end, place.first, columns, sight);
    bring::<F, N>(key, &mut tile_k, place.key_offset, column, sizes.keys, place.key_stride, tiles.columns, tiles);
    bring::<F, N>(value, &mut tile_v, place.key_offset, column, sizes.keys, place.key_stride, tiles.columns, tiles);
    while column < end {
        sync_cube();
        // The next tiles are on their way while these are used.
        let next = next_keys::<I>(segments, place.base, column + columns, end, place.first, columns, sight);
        let held_k = fetch::<F, N>(key, place.key_offset, next, sizes.keys, place.key_stride, tiles.columns, tiles);
        let held_v = fetch::<F, N>(value, place.key_offset, next, sizes.keys, place.key_stride, tiles.columns, tiles);
        products::<F, N>(&own_query, &tile_k, &mut scores, tiles);
        products::<F, N>(&own_grad, &tile_v, &mut d_weights, tiles);
        sync_plane();
        let mut weight = Array::<f32>::new(comptime!(tiles.columns / tiles.sharing()));
        let mut slope = Array::<f32>::new(comptime!(tiles.columns / tiles.sharing()));
        let inside =
            all_seen::<I>(segments, place.base, place.first, comptime!(rows as u32), column, columns, &sizes, sight);
        slopes::<I>(
            &scores,
            &d_weights,
            log_sums,
            deltas,
            segments,
            &mut weight,
            &mut slope,
            place.base,
            place.statistics,
            row,
            own_row,
            column,
            inside,
            &sizes,
            false,
            tiles,
            sight,
        );
        put::<F>(&slope, &mut weights, own_row, tiles);
        sync_plane();
        accumulate::<F, N>(&weights, &tile_k, &sums, tiles);
        sync_cube();
        put_tile::<F, N>(&held_k, &mut tile_k, tiles.columns, tiles);
        put_tile::<F, N>(&held_v, &mut tile_v, tiles.columns, tiles);
        column = next;
    }
    factors[own_row as usize] = 1.0f32;
    sync_plane();
    let wide = comptime!(tiles.head_dim as u32);
    let out_offset = place.batch * sizes.queries * sizes.heads * wide + place.head * wide;
    leave::<F>(&sums, &factors, &mut scores, d_query, out_offset, place.first, sizes.queries, sizes.heads * wide, tiles);
}

/// `dK = dSᵀ Q` and `dV = Pᵀ dO`, over all query heads of a key-value head.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn key_kernel<F: Float, I: Int, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    value: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_key: &mut Array<F>,
    d_value: &mut Array<F>,
    sizes: Sizes,
    #[comptime] tiles: AttentionTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let f = comptime!(tiles.fragment);
    let rows = comptime!(tiles.rows());
    let vectors = comptime!((tiles.head_dim / tiles.vector) as u32);
    let shared = comptime!(tiles.columns.max(rows) * tiles.stride() / tiles.vector);
    let mut tile_q = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut tile_g = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut scores = SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize);
    let mut d_weights = SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize);
    let mut weights = SharedMemory::<F>::new_aligned(comptime!(rows * tiles.weight_stride()), 32usize);
    let mut factors = SharedMemory::<f32>::new(rows);

    let (pair, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = CUBE_POS_X * comptime!(rows as u32);
    let query_stride = sizes.heads * vectors;
    let key_stride = sizes.pairs * vectors;
    let key_offset = batch * sizes.keys * key_stride + pair * vectors;
    let base = batch * sizes.keys;

    bring::<F, N>(key, &mut tile_q, key_offset, first, sizes.keys, key_stride, rows, tiles);
    bring::<F, N>(value, &mut tile_g, key_offset, first, sizes.keys, key_stride, rows, tiles);
    sync_cube();
    let own_key = own_rows::<F, N>(&tile_q, tiles);
    let own_value = own_rows::<F, N>(&tile_g, tiles);
    sync_cube();

    let mut key_sums = Sequence::<cmma::Matrix<f32>>::new();
    let mut value_sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tiles.head_dim / f.n) {
        key_sums.push(zeros(tiles));
        value_sums.push(zeros(tiles));
    }
    let sharing = comptime!(tiles.sharing() as u32);
    let own_row = PLANE_POS * comptime!(f.m as u32) + UNIT_POS_PLANE / sharing;
    let row = first + own_row;
    let last_key = min(first + comptime!(rows as u32), sizes.keys);
    let (begin, end) = query_range(first, last_key, &sizes, sight);
    let columns = comptime!(tiles.columns as u32);
    let group = sizes.heads / sizes.pairs;
    for member in 0..group {
        let head = pair * group + member;
        let query_offset = batch * sizes.queries * query_stride + head * vectors;
        let statistics = (batch * sizes.heads + head) * sizes.queries;
        let mut column = next_queries::<I>(segments, base, begin / columns * columns, end, last_key, columns, sight);
        // The last tile of the head before may still be read.
        sync_cube();
        bring::<F, N>(query, &mut tile_q, query_offset, column, sizes.queries, query_stride, tiles.columns, tiles);
        bring::<F, N>(grad, &mut tile_g, query_offset, column, sizes.queries, query_stride, tiles.columns, tiles);
        while column < end {
            sync_cube();
            let next = next_queries::<I>(segments, base, column + columns, end, last_key, columns, sight);
            let held_q = fetch::<F, N>(query, query_offset, next, sizes.queries, query_stride, tiles.columns, tiles);
            let held_g = fetch::<F, N>(grad, query_offset, next, sizes.queries, query_stride, tiles.columns, tiles);
            products::<F, N>(&own_key, &tile_q, &mut scores, tiles);
            products::<F, N>(&own_value, &tile_g, &mut d_weights, tiles);
            sync_plane();
            let mut weight = Array::<f32>::new(comptime!(tiles.columns / tiles.sharing()));
            let mut slope = Array::<f32>::new(comptime!(tiles.columns / tiles.sharing()));
            let inside = all_seen::<I>(segments, base, column, columns, first, comptime!(rows as u32), &sizes, sight);
            slopes::<I>(
                &scores,
                &d_weights,
                log_sums,
                deltas,
                segments,
                &mut weight,
                &mut slope,
                base,
                statistics,
                row,
                own_row,
                column,
                inside,
                &sizes,
                true,
                tiles,
                sight,
            );
            put::<F>(&weight, &mut weights, own_row, tiles);
            sync_plane();
            accumulate::<F, N>(&weights, &tile_g, &value_sums, tiles);
            sync_plane();
            put::<F>(&slope, &mut weights, own_row, tiles);
            sync_plane();
            accumulate::<F, N>(&weights, &tile_q, &key_sums, tiles);
            sync_cube();
            put_tile::<F, N>(&held_q, &mut tile_q, tiles.columns, tiles);
            put_tile::<F, N>(&held_g, &mut tile_g, tiles.columns, tiles);
            column = next;
        }
    }
    factors[own_row as usize] = 1.0f32;
    sync_plane();
    let wide = comptime!(tiles.head_dim as u32);
    let out_offset = batch * sizes.keys * sizes.pairs * wide + pair * wide;
    leave::<F>(&key_sums, &factors, &mut scores, d_key, out_offset, first, sizes.keys, sizes.pairs * wide, tiles);
    leave::<F>(&value_sums, &factors, &mut scores, d_value, out_offset, first, sizes.keys, sizes.pairs * wide, tiles);
}
