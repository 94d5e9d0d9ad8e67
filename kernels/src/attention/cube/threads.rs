//! Attention without matrix units: a thread owns a row.

use cubecl::prelude::*;

use super::scores::{HIDDEN, Head, Mask, Sight, Sizes, foreign, key_range, query_range, score, sees};
use crate::cube::reduce::vector_sum;

/// Rows of a cube.
pub(super) const ROWS: usize = 64;
/// Columns of a tile in shared memory.
const COLUMNS: usize = 16;

/// Copies positions `first…` of a head, whose vectors are single elements, to shared memory, with zeros beyond the last.
#[cube]
fn load<F: Float>(source: &Array<F>, head: &Head, first: u32, tile: &mut SharedMemory<f32>, #[comptime] head_dim: usize) {
    let mut at = UNIT_POS;
    while at < comptime!((COLUMNS * head_dim) as u32) {
        let r = at / comptime!(head_dim as u32);
        let c = at % comptime!(head_dim as u32);
        let mut value = 0.0f32;
        if first + r < head.length {
            value = f32::cast_from(source[(head.offset + (first + r) * head.stride + c) as usize]);
        }
        tile[at as usize] = value;
        at += comptime!(ROWS as u32);
    }
}

/// A thread's row in registers.
#[cube]
fn own_row<F: Float>(source: &Array<F>, at: u32, inside: bool, #[comptime] head_dim: usize) -> Array<f32> {
    let mut row = Array::<f32>::new(head_dim);
    for i in 0..head_dim {
        row[i] = 0.0f32;
        if inside {
            row[i] = f32::cast_from(source[at as usize + i]);
        }
    }
    row
}

#[cube]
fn dot(row: &Array<f32>, tile: &SharedMemory<f32>, column: u32, #[comptime] head_dim: usize) -> f32 {
    let mut sum = 0.0f32;
    let start = column * comptime!(head_dim as u32);
    for i in 0..head_dim {
        sum += row[i] * tile[start as usize + i];
    }
    sum
}

#[cube]
fn add(sums: &mut Array<f32>, tile: &SharedMemory<f32>, column: u32, factor: f32, #[comptime] head_dim: usize) {
    let start = column * comptime!(head_dim as u32);
    for i in 0..head_dim {
        sums[i] += factor * tile[start as usize + i];
    }
}

#[cube]
fn zeros(#[comptime] head_dim: usize) -> Array<f32> {
    let mut sums = Array::<f32>::new(head_dim);
    for i in 0..head_dim {
        sums[i] = 0.0f32;
    }
    sums
}

#[cube]
fn write<F: Float>(out: &mut Array<F>, at: u32, sums: &Array<f32>, factor: f32, #[comptime] head_dim: usize) {
    for i in 0..head_dim {
        out[at as usize + i] = F::cast_from(sums[i] * factor);
    }
}

#[cube(launch_unchecked)]
pub(super) fn forward_kernel<F: Float, I: Int>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    segments: &Array<I>,
    out: &mut Array<F>,
    log_sums: &mut Array<f32>,
    sizes: Sizes,
    #[comptime] head_dim: usize,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let mut tile_k = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let mut tile_v = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let wide = comptime!(head_dim as u32);
    let columns = comptime!(COLUMNS as u32);
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let key_value_head = head / (sizes.heads / sizes.key_value_heads);
    let first = CUBE_POS_X * comptime!(ROWS as u32);
    let row = first + UNIT_POS;
    let key_stride = sizes.key_value_heads * wide;
    let keys =
        Head { offset: batch * sizes.keys * key_stride + key_value_head * wide, length: sizes.keys, stride: key_stride };
    let mask = Mask { ids: batch * sizes.keys, sizes };
    let own = ((batch * sizes.queries + row) * sizes.heads + head) * wide;
    let mine = own_row::<F>(query, own, row < sizes.queries, head_dim);
    let mut sums = zeros(head_dim);
    let mut largest = f32::new(HIDDEN);
    let mut total = 0.0f32;
    let (begin, end) = key_range(first, first + comptime!(ROWS as u32), &sizes, sight);
    let mut column = begin / columns * columns;
    while column < end {
        if !foreign::<I>(segments, &mask, column + columns, first, sight) {
            load::<F>(key, &keys, column, &mut tile_k, head_dim);
            load::<F>(value, &keys, column, &mut tile_v, head_dim);
            sync_cube();
            for c in 0..columns {
                if sees::<I>(segments, &mask, row, column + c, sight) {
                    let (own_score, _slope) = score(dot(&mine, &tile_k, c, head_dim), &sizes, sight);
                    if own_score > largest {
                        let factor = f32::exp(largest - own_score);
                        total *= factor;
                        for i in 0..head_dim {
                            sums[i] *= factor;
                        }
                        largest = own_score;
                    }
                    let weight = f32::exp(own_score - largest);
                    total += weight;
                    add(&mut sums, &tile_v, c, weight, head_dim);
                }
            }
            sync_cube();
        }
        column += columns;
    }
    if row < sizes.queries {
        write::<F>(out, own, &sums, 1.0f32 / total, head_dim);
        log_sums[((batch * sizes.heads + head) * sizes.queries + row) as usize] = largest + f32::ln(total);
    }
}

/// `D = Σ dO O` of each query, one in each thread; for every route.
#[cube(launch_unchecked)]
pub(super) fn delta_kernel<F: Float, N: Size>(
    out: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    deltas: &mut Array<f32>,
    count: u32,
    queries: u32,
    heads: u32,
    #[comptime] vectors: usize,
    #[define(F)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at < count as usize {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..vectors {
            let product =
                Vector::<f32, N>::cast_from(out[at * vectors + i]) * Vector::<f32, N>::cast_from(grad[at * vectors + i]);
            sum += vector_sum::<N>(product);
        }
        // From [batch, queries, heads] to [batch, heads, queries].
        let head = at as u32 % heads;
        let token = at as u32 / heads;
        deltas[(((token / queries) * heads + head) * queries + token % queries) as usize] = sum;
    }
}

#[cube(launch_unchecked)]
pub(super) fn query_kernel<F: Float, I: Int>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    grad: &Array<F>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_query: &mut Array<F>,
    sizes: Sizes,
    #[comptime] head_dim: usize,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let mut tile_k = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let mut tile_v = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let wide = comptime!(head_dim as u32);
    let columns = comptime!(COLUMNS as u32);
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let key_value_head = head / (sizes.heads / sizes.key_value_heads);
    let first = CUBE_POS_X * comptime!(ROWS as u32);
    let row = first + UNIT_POS;
    let key_stride = sizes.key_value_heads * wide;
    let keys =
        Head { offset: batch * sizes.keys * key_stride + key_value_head * wide, length: sizes.keys, stride: key_stride };
    let mask = Mask { ids: batch * sizes.keys, sizes };
    let own = ((batch * sizes.queries + row) * sizes.heads + head) * wide;
    let mine = own_row::<F>(query, own, row < sizes.queries, head_dim);
    let slope = own_row::<F>(grad, own, row < sizes.queries, head_dim);
    let at = ((batch * sizes.heads + head) * sizes.queries + min(row, sizes.queries - 1)) as usize;
    let (log_sum, delta) = (log_sums[at], deltas[at]);
    let mut sums = zeros(head_dim);
    let (begin, end) = key_range(first, first + comptime!(ROWS as u32), &sizes, sight);
    let mut column = begin / columns * columns;
    while column < end {
        if !foreign::<I>(segments, &mask, column + columns, first, sight) {
            load::<F>(key, &keys, column, &mut tile_k, head_dim);
            load::<F>(value, &keys, column, &mut tile_v, head_dim);
            sync_cube();
            for c in 0..columns {
                if sees::<I>(segments, &mask, row, column + c, sight) {
                    let (own_score, own_slope) = score(dot(&mine, &tile_k, c, head_dim), &sizes, sight);
                    let weight = f32::exp(own_score - log_sum);
                    let d_score = weight * (dot(&slope, &tile_v, c, head_dim) - delta) * own_slope;
                    add(&mut sums, &tile_k, c, d_score, head_dim);
                }
            }
            sync_cube();
        }
        column += columns;
    }
    if row < sizes.queries {
        write::<F>(d_query, own, &sums, 1.0f32, head_dim);
    }
}

#[cube(launch_unchecked)]
pub(super) fn key_kernel<F: Float, I: Int>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    grad: &Array<F>,
    segments: &Array<I>,
    log_sums: &Array<f32>,
    deltas: &Array<f32>,
    d_key: &mut Array<F>,
    d_value: &mut Array<F>,
    sizes: Sizes,
    #[comptime] head_dim: usize,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let mut tile_q = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let mut tile_g = SharedMemory::<f32>::new(comptime!(COLUMNS * head_dim));
    let wide = comptime!(head_dim as u32);
    let columns = comptime!(COLUMNS as u32);
    let (key_value_head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = CUBE_POS_X * comptime!(ROWS as u32);
    let row = first + UNIT_POS;
    let query_stride = sizes.heads * wide;
    let mask = Mask { ids: batch * sizes.keys, sizes };
    let past = sizes.keys - sizes.queries;
    let own = ((batch * sizes.keys + row) * sizes.key_value_heads + key_value_head) * wide;
    let my_key = own_row::<F>(key, own, row < sizes.keys, head_dim);
    let my_value = own_row::<F>(value, own, row < sizes.keys, head_dim);
    let mut key_sums = zeros(head_dim);
    let mut value_sums = zeros(head_dim);
    let last_key = min(first + comptime!(ROWS as u32), sizes.keys);
    let (begin, end) = query_range(first, last_key, &sizes, sight);
    let group = sizes.heads / sizes.key_value_heads;
    for member in 0..group {
        let head = key_value_head * group + member;
        let queries =
            Head { offset: batch * sizes.queries * query_stride + head * wide, length: sizes.queries, stride: query_stride };
        let statistics = (batch * sizes.heads + head) * sizes.queries;
        let mut column = begin / columns * columns;
        while column < end {
            if !foreign::<I>(segments, &mask, last_key, past + column, sight) {
                load::<F>(query, &queries, column, &mut tile_q, head_dim);
                load::<F>(grad, &queries, column, &mut tile_g, head_dim);
                sync_cube();
                for c in 0..columns {
                    if row < sizes.keys && sees::<I>(segments, &mask, column + c, row, sight) {
                        let at = (statistics + column + c) as usize;
                        let (own_score, own_slope) = score(dot(&my_key, &tile_q, c, head_dim), &sizes, sight);
                        let weight = f32::exp(own_score - log_sums[at]);
                        let d_score = weight * (dot(&my_value, &tile_g, c, head_dim) - deltas[at]) * own_slope;
                        add(&mut value_sums, &tile_g, c, weight, head_dim);
                        add(&mut key_sums, &tile_q, c, d_score, head_dim);
                    }
                }
                sync_cube();
            }
            column += columns;
        }
    }
    if row < sizes.keys {
        write::<F>(d_key, own, &key_sums, 1.0f32, head_dim);
        write::<F>(d_value, own, &value_sums, 1.0f32, head_dim);
    }
}
