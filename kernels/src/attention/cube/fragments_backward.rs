//! The backward on matrix units: for queries, and for keys and values.

use cubecl::prelude::*;

use super::fragments::{AttentionTiles, accumulate, fetch, load, own_rows, products, put_tile, write_sums, zeros};
use super::scores::{
    Head, Mask, Sight, Sizes, all_seen, key_range, next_keys, next_queries, query_block, query_range, score, sees,
};

/// Products of a plane's rows in shared memory.
#[derive(CubeType, Clone, Copy)]
struct Products {
    /// `Q Kᵀ`.
    scores: SharedMemory<f32>,
    /// `dP = dO Vᵀ`.
    d_weights: SharedMemory<f32>,
}

/// A thread's weights `P` and their scores' gradients `dS`.
#[derive(CubeType)]
struct Slopes {
    weight: Array<f32>,
    slope: Array<f32>,
}

/// Which scores a thread works on.
#[derive(CubeType, Clone, Copy)]
struct ScoreRow {
    /// Where the statistics of the head begin.
    statistics: u32,
    /// The row within the head.
    row: u32,
    /// The row within the cube.
    own_row: u32,
    /// The first column of the tile.
    column: u32,
    /// Whether no score of the tile is hidden.
    inside: bool,
}

/// What [`slopes`] is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SlopePlan {
    /// Whether rows are keys instead of queries.
    by_key: bool,
    tiles: AttentionTiles,
    sight: Sight,
}

/// `P = exp(S - L)`, and `dS = P (dP - D)` times the score's slope.
#[cube]
fn slopes<I: Int>(
    products: &Products,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    segments: &Array<I>,
    found: &mut Slopes,
    at: &ScoreRow,
    mask: &Mask,
    #[comptime] plan: SlopePlan,
) {
    let tiles = comptime!(plan.tiles);
    let part = UNIT_POS_PLANE % comptime!(tiles.sharing() as u32);
    #[unroll]
    for i in 0..comptime!(tiles.columns / tiles.sharing()) {
        let c = part + comptime!((i * tiles.sharing()) as u32);
        let index = (at.own_row * comptime!(tiles.score_stride() as u32) + c) as usize;
        let (own_score, own_slope) = score(products.scores[index], &mask.sizes, plan.sight);
        let (query, key) = if comptime!(plan.by_key) { (at.column + c, at.row) } else { (at.row, at.column + c) };
        found.weight[i] = 0.0f32;
        found.slope[i] = 0.0f32;
        let mut seen = at.inside;
        if !at.inside {
            seen = sees::<I>(segments, mask, query, key, plan.sight);
        }
        if seen {
            let statistic = (at.statistics + query) as usize;
            let p = f32::exp(own_score - log_sums[statistic]);
            found.weight[i] = p;
            found.slope[i] = p * (products.d_weights[index] - deltas[statistic]) * own_slope;
        }
    }
}

/// Writes a thread's values to its plane's part of the weights.
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
    let mut found = Products {
        scores: SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize),
        d_weights: SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize),
    };
    let mut weights = SharedMemory::<F>::new_aligned(comptime!(rows * tiles.weight_stride()), 32usize);
    let mut factors = SharedMemory::<f32>::new(rows);

    let block = query_block(sizes, rows, comptime!(tiles.head_dim / tiles.vector));

    load::<F, N>(query, &block.queries, block.first, &mut tile_k, rows, tiles);
    load::<F, N>(grad, &block.queries, block.first, &mut tile_v, rows, tiles);
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
    let row = block.first + own_row;
    let (begin, end) = key_range(block.first, block.first + comptime!(rows as u32), &sizes, sight);
    let columns = comptime!(tiles.columns as u32);
    let mut column = next_keys::<I>(segments, &block.mask, begin / columns * columns, end, block.first, columns, sight);
    load::<F, N>(key, &block.keys, column, &mut tile_k, tiles.columns, tiles);
    load::<F, N>(value, &block.keys, column, &mut tile_v, tiles.columns, tiles);
    while column < end {
        sync_cube();
        // The next tiles are read while these are used.
        let next = next_keys::<I>(segments, &block.mask, column + columns, end, block.first, columns, sight);
        let held_k = fetch::<F, N>(key, &block.keys, next, tiles.columns, tiles);
        let held_v = fetch::<F, N>(value, &block.keys, next, tiles.columns, tiles);
        products::<F, N>(&own_query, &tile_k, &mut found.scores, tiles);
        products::<F, N>(&own_grad, &tile_v, &mut found.d_weights, tiles);
        sync_plane();
        let mut own = Slopes {
            weight: Array::<f32>::new(comptime!(tiles.columns / tiles.sharing())),
            slope: Array::<f32>::new(comptime!(tiles.columns / tiles.sharing())),
        };
        let inside = all_seen::<I>(segments, &block.mask, block.first, comptime!(rows as u32), column, columns, sight);
        let at = ScoreRow { statistics: block.statistics, row, own_row, column, inside };
        let plan = comptime!(SlopePlan { by_key: false, tiles, sight });
        slopes::<I>(&found, log_sums, deltas, segments, &mut own, &at, &block.mask, plan);
        put::<F>(&own.slope, &mut weights, own_row, tiles);
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
    let head = Head {
        offset: block.batch * sizes.queries * sizes.heads * wide + block.head * wide,
        length: sizes.queries,
        stride: sizes.heads * wide,
    };
    write_sums::<F>(&sums, &factors, &mut found.scores, d_query, &head, block.first, tiles);
}

/// `dK = dSᵀ Q` and `dV = Pᵀ dO`, over all query heads of a key-value head.
#[cube(launch_unchecked)]
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
    let mut found = Products {
        scores: SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize),
        d_weights: SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize),
    };
    let mut weights = SharedMemory::<F>::new_aligned(comptime!(rows * tiles.weight_stride()), 32usize);
    let mut factors = SharedMemory::<f32>::new(rows);

    let (key_value_head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = CUBE_POS_X * comptime!(rows as u32);
    let query_stride = sizes.heads * vectors;
    let key_stride = sizes.key_value_heads * vectors;
    let own_head =
        Head { offset: batch * sizes.keys * key_stride + key_value_head * vectors, length: sizes.keys, stride: key_stride };
    let mask = Mask { ids: batch * sizes.keys, sizes };

    load::<F, N>(key, &own_head, first, &mut tile_q, rows, tiles);
    load::<F, N>(value, &own_head, first, &mut tile_g, rows, tiles);
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
    let group = sizes.heads / sizes.key_value_heads;
    for member in 0..group {
        let head = key_value_head * group + member;
        let queries = Head {
            offset: batch * sizes.queries * query_stride + head * vectors,
            length: sizes.queries,
            stride: query_stride,
        };
        let statistics = (batch * sizes.heads + head) * sizes.queries;
        let mut column = next_queries::<I>(segments, &mask, begin / columns * columns, end, last_key, sight);
        // The last tile of the previous head may still be read.
        sync_cube();
        load::<F, N>(query, &queries, column, &mut tile_q, tiles.columns, tiles);
        load::<F, N>(grad, &queries, column, &mut tile_g, tiles.columns, tiles);
        while column < end {
            sync_cube();
            let next = next_queries::<I>(segments, &mask, column + columns, end, last_key, sight);
            let held_q = fetch::<F, N>(query, &queries, next, tiles.columns, tiles);
            let held_g = fetch::<F, N>(grad, &queries, next, tiles.columns, tiles);
            products::<F, N>(&own_key, &tile_q, &mut found.scores, tiles);
            products::<F, N>(&own_value, &tile_g, &mut found.d_weights, tiles);
            sync_plane();
            let mut own = Slopes {
                weight: Array::<f32>::new(comptime!(tiles.columns / tiles.sharing())),
                slope: Array::<f32>::new(comptime!(tiles.columns / tiles.sharing())),
            };
            let inside = all_seen::<I>(segments, &mask, column, columns, first, comptime!(rows as u32), sight);
            let at = ScoreRow { statistics, row, own_row, column, inside };
            let plan = comptime!(SlopePlan { by_key: true, tiles, sight });
            slopes::<I>(&found, log_sums, deltas, segments, &mut own, &at, &mask, plan);
            put::<F>(&own.weight, &mut weights, own_row, tiles);
            sync_plane();
            accumulate::<F, N>(&weights, &tile_g, &value_sums, tiles);
            sync_plane();
            put::<F>(&own.slope, &mut weights, own_row, tiles);
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
    let head = Head {
        offset: batch * sizes.keys * sizes.key_value_heads * wide + key_value_head * wide,
        length: sizes.keys,
        stride: sizes.key_value_heads * wide,
    };
    write_sums::<F>(&key_sums, &factors, &mut found.scores, d_key, &head, first, tiles);
    write_sums::<F>(&value_sums, &factors, &mut found.scores, d_value, &head, first, tiles);
}
