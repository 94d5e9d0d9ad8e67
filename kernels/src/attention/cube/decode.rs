//! Attention of one token, or a few, over a cache. A cube handles a block of keys for all heads that share them, so that each key
//! and value is read once; a second launch combines the blocks (Dao et al. 2023, "Flash-Decoding").

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::scores::{Extents, HIDDEN, Sight, Sizes, key_range, score};
use crate::attention::AttentionOptions;
use crate::cube::launch::{contiguous, empty, empty_like, greatest_common_divisor, vector_size};
use crate::cube::reduce::{Planes, cube_max, cube_sum, vector_sum};

/// Most queries: with more, tiles of queries read the keys less often.
const MAX_QUERIES: usize = 4;
/// Threads of a cube, and keys of a block.
const BLOCK: usize = 128;
/// Heads whose sums a thread holds at a time.
const HEADS: usize = 4;
/// Most vectors of a head whose loop is unrolled.
const MOST_UNROLLED: usize = 32;
/// Values that a thread requests before it uses them.
const AHEAD: usize = 4;

/// What the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DecodePlan {
    /// Vectors of a head.
    vectors: usize,
    /// Heads that share keys.
    group: usize,
    /// Heads whose sums the threads add up at a time.
    together: usize,
    /// Whether there is only one block.
    alone: bool,
    /// How planes reduce.
    planes: Planes,
}

/// Strides of the cache, in vectors: it may be the beginning of a longer one.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct CacheStrides {
    key_batch: u32,
    key_token: u32,
    value_batch: u32,
    value_token: u32,
}

#[cube(launch_unchecked)]
fn block_kernel<F: Float, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    value: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    partial: &mut Array<Vector<f32, N>>,
    statistics: &mut Array<f32>,
    sizes: Sizes,
    strides: CacheStrides,
    first_block: u32,
    #[comptime] plan: DecodePlan,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
) {
    let (vectors, group) = comptime!((plan.vectors as u32, plan.group as u32));
    let mut queries = SharedMemory::<Vector<f32, N>>::new(comptime!(plan.group * plan.vectors));
    let mut weights = SharedMemory::<f32>::new(comptime!(plan.group * BLOCK));
    let mut totals = SharedMemory::<f32>::new(comptime!(plan.group));
    let mut scratch = SharedMemory::<Vector<f32, N>>::new(comptime!(plan.together * BLOCK));
    let (split, splits, key_value_head, row) = (CUBE_POS_X, CUBE_COUNT_X, CUBE_POS_Y, CUBE_POS_Z);
    let batch = row / sizes.queries;
    let index = row % sizes.queries;
    let first = (first_block + split) * comptime!(BLOCK as u32);
    let (begin, end) = key_range(index, index + 1, &sizes, sight);

    // The heads of a group are adjacent.
    let head = row * sizes.heads + key_value_head * group;
    let mut at = UNIT_POS;
    while at < comptime!((plan.group * plan.vectors) as u32) {
        queries[at as usize] = Vector::<f32, N>::cast_from(query[(head * vectors + at) as usize]);
        at += comptime!(BLOCK as u32);
    }
    sync_cube();

    let column = first + UNIT_POS;
    let seen = column >= begin && column < end;
    let mut products = Array::<f32>::new(plan.group);
    #[unroll]
    for g in 0..plan.group {
        products[g] = 0.0f32;
    }
    if seen {
        let start = batch * strides.key_batch + column * strides.key_token + key_value_head * vectors;
        #[unroll(plan.vectors <= MOST_UNROLLED)]
        for v in 0..plan.vectors {
            let own = Vector::<f32, N>::cast_from(key[start as usize + v]);
            #[unroll]
            for g in 0..plan.group {
                products[g] += vector_sum::<N>(own * queries[comptime!(g * plan.vectors) + v]);
            }
        }
    }
    #[unroll]
    for g in 0..plan.group {
        let (scored, _slope) = score(products[g], &sizes, sight);
        weights[comptime!(g * BLOCK) + UNIT_POS as usize] = select(seen, scored, f32::new(HIDDEN));
    }
    softmax(&mut weights, &mut totals, statistics, head, plan);
    sync_cube();

    // Adjacent threads read the vectors of one value; the cube reads as many values at once as it has threads for.
    let values_at_once = comptime!((BLOCK / plan.vectors) as u32);
    let (within, own_value) = (UNIT_POS % vectors, UNIT_POS / vectors);
    let mut last = 0u32;
    if own_value < values_at_once && end > first {
        last = min(end - first, comptime!(BLOCK as u32));
    }
    let start = batch * strides.value_batch + key_value_head * vectors + within;
    #[unroll]
    for pass in 0..comptime!(plan.group.div_ceil(HEADS)) {
        let heads = comptime!((plan.group - pass * HEADS).min(HEADS));
        let mut sums = Array::<Vector<f32, N>>::new(heads);
        #[unroll]
        for h in 0..heads {
            sums[h] = Vector::<f32, N>::new(0.0f32);
        }
        let mut c = own_value;
        while c < last {
            let mut values = Array::<Vector<F, N>>::new(AHEAD);
            #[unroll]
            for i in 0..AHEAD {
                // The last value again, whose weight is then 0, instead of one that does not exist.
                let own = min(c + comptime!(i as u32) * values_at_once, last - 1);
                values[i] = value[(start + (first + own) * strides.value_token) as usize];
            }
            #[unroll]
            for i in 0..AHEAD {
                let own = c + comptime!(i as u32) * values_at_once;
                #[unroll]
                for h in 0..heads {
                    let at = comptime!((pass * HEADS + h) * BLOCK) + min(own, last - 1) as usize;
                    let weight = select(own < last, weights[at], 0.0f32);
                    sums[h] += Vector::<f32, N>::cast_from(values[i]) * Vector::<f32, N>::new(weight);
                }
            }
            c += comptime!(AHEAD as u32) * values_at_once;
        }
        #[unroll]
        for part in 0..comptime!(heads.div_ceil(plan.together)) {
            let count = comptime!((heads - part * plan.together).min(plan.together));
            #[unroll]
            for h in 0..count {
                scratch[comptime!(h * BLOCK) + UNIT_POS as usize] = sums[comptime!(part * plan.together + h)];
            }
            sync_cube();
            let mut at = UNIT_POS;
            while at < comptime!(count as u32) * vectors {
                let (own, own_vector) = (at / vectors, at % vectors);
                let from = own * comptime!(BLOCK as u32) + own_vector;
                let mut sum = scratch[from as usize];
                for other in 1..values_at_once {
                    sum += scratch[(from + other * vectors) as usize];
                }
                let member = comptime!((pass * HEADS + part * plan.together) as u32) + own;
                let to = head + member;
                if comptime!(plan.alone) {
                    let share = Vector::<f32, N>::new(1.0f32 / totals[member as usize]);
                    out[(to * vectors + own_vector) as usize] = Vector::<F, N>::cast_from(sum * share);
                } else {
                    partial[((to * splits + split) * vectors + own_vector) as usize] = sum;
                }
                at += comptime!(BLOCK as u32);
            }
            sync_cube();
        }
    }
}

/// Replaces the scores of each head by their exponentials, relative to the largest, and sums them. All threads of the cube must call it.
#[cube]
fn softmax(
    weights: &mut SharedMemory<f32>,
    totals: &mut SharedMemory<f32>,
    statistics: &mut Array<f32>,
    head: u32,
    #[comptime] plan: DecodePlan,
) {
    let block = comptime!(BLOCK as u32);
    match comptime!(plan.planes.size()) {
        // A plane for each head, and no barrier.
        Some(size) => {
            let (number, lane) = (comptime!(block / size), UNIT_POS % size);
            sync_cube();
            let mut g = UNIT_POS / size;
            while g < comptime!(plan.group as u32) {
                let own = g * block + lane;
                let mut largest = f32::new(HIDDEN);
                #[unroll]
                for i in 0..number {
                    largest = max(largest, weights[(own + comptime!(i * size)) as usize]);
                }
                let largest = plane_max(largest);
                let mut total = 0.0f32;
                #[unroll]
                for i in 0..number {
                    let at = (own + comptime!(i * size)) as usize;
                    let weight = weight_of(weights[at], largest);
                    weights[at] = weight;
                    total += weight;
                }
                let total = plane_sum(total);
                if lane == 0 {
                    keep(totals, statistics, head, g, largest, total, plan);
                }
                g += number;
            }
        }
        // A thread reads back what it wrote itself.
        None => {
            for g in 0..comptime!(plan.group as u32) {
                let own = (g * block + UNIT_POS) as usize;
                let scored = weights[own];
                let largest = cube_max(scored, BLOCK, plan.planes);
                let weight = weight_of(scored, largest);
                let total = cube_sum(weight, BLOCK, plan.planes);
                weights[own] = weight;
                if UNIT_POS == 0 {
                    keep(totals, statistics, head, g, largest, total, plan);
                }
            }
        }
    }
}

/// The weight of a score, 0 where the key is hidden.
#[cube]
fn weight_of(scored: f32, largest: f32) -> f32 {
    select(scored <= f32::new(HIDDEN), 0.0f32, f32::exp(scored - largest))
}

/// Keeps the largest score and the sum of a head, for this cube or for the launch that combines blocks.
#[cube]
fn keep(
    totals: &mut SharedMemory<f32>,
    statistics: &mut Array<f32>,
    head: u32,
    member: u32,
    largest: f32,
    total: f32,
    #[comptime] plan: DecodePlan,
) {
    totals[member as usize] = total;
    if comptime!(!plan.alone) {
        let to = (((head + member) * CUBE_COUNT_X + CUBE_POS_X) * 2) as usize;
        statistics[to] = largest;
        statistics[to + 1] = total;
    }
}

/// Combines the blocks, one head in each cube, by their largest scores and their sums.
#[cube(launch_unchecked)]
fn combine_kernel<F: Float, N: Size>(
    partial: &Array<Vector<f32, N>>,
    statistics: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    splits: u32,
    #[comptime] vectors: usize,
    #[define(F)] _dtype: StorageType,
) {
    let head = CUBE_POS as u32;
    if UNIT_POS < comptime!(vectors as u32) {
        let start = head * splits;
        let mut largest = f32::new(HIDDEN);
        for split in 0..splits {
            largest = max(largest, statistics[((start + split) * 2) as usize]);
        }
        let mut total = 0.0f32;
        let mut sum = Vector::<f32, N>::new(0.0f32);
        for split in 0..splits {
            let at = start + split;
            let share = f32::exp(statistics[(at * 2) as usize] - largest);
            total += share * statistics[(at * 2 + 1) as usize];
            sum += partial[(at * comptime!(vectors as u32) + UNIT_POS) as usize] * Vector::<f32, N>::new(share);
        }
        let to = head * comptime!(vectors as u32) + UNIT_POS;
        out[to as usize] = Vector::<F, N>::cast_from(sum * Vector::<f32, N>::new(1.0f32 / total));
    }
}

/// A cache as the kernel reads it, copied only where its heads are not adjacent.
fn in_cache<R: CubeRuntime>(cache: CubeTensor<R>) -> CubeTensor<R> {
    let (shape, strides) = (cache.meta.shape(), cache.meta.strides());
    let packed = strides[3] == 1 && strides[2] == shape[3];
    if packed { cache } else { contiguous(cache) }
}

/// The result; `None` where tiles of queries are faster, or the heads of a group exceed the device's shared memory.
pub(super) fn decode<R: CubeRuntime>(
    [query, key, value]: [&CubeTensor<R>; 3],
    options: AttentionOptions,
) -> Option<CubeTensor<R>> {
    let extents = Extents::of(&query.shape(), &key.shape());
    let Extents { batch, queries, keys, heads, key_value_heads, head_dim } = extents;
    if queries > MAX_QUERIES || queries == keys {
        return None;
    }
    let query = contiguous(query.clone());
    let (key, value) = (in_cache(key.clone()), in_cache(value.clone()));
    let steps = [&key, &value].into_iter().flat_map(|cache| [cache.meta.strides()[0], cache.meta.strides()[1]]);
    let length = steps.fold(head_dim, greatest_common_divisor);
    let size = vector_size(&[&query, &key, &value], length);
    let (vectors, group) = (head_dim / size, heads / key_value_heads);
    let client = query.client.clone();
    let bytes = |together: usize| size_of::<f32>() * (group * (head_dim + BLOCK + 1) + BLOCK * (together * size + 2));
    let most = client.properties().hardware.max_shared_memory_size;
    let together = [HEADS.min(group), 1].into_iter().find(|together| bytes(*together) <= most)?;
    if vectors > BLOCK {
        return None;
    }
    let window = options.sliding_window.unwrap_or(keys).min(keys);
    let first_block = (keys - queries + 1).saturating_sub(window) / BLOCK;
    let splits = keys.div_ceil(BLOCK) - first_block;
    let (alone, rows) = (splits == 1, batch * queries);
    let sight = Sight::new(false, keys, options);
    let sizes = extents.sizes(options);
    let step = |cache: &CubeTensor<R>, axis: usize| (cache.meta.strides()[axis] / size) as u32;
    let strides = CacheStridesLaunch::new(step(&key, 0), step(&key, 1), step(&value, 0), step(&value, 1));
    let parts = if alone { 0 } else { rows * heads * splits };
    let out = empty_like(&query);
    let partial = empty(&query, [parts.max(1), head_dim], DType::F32);
    let statistics = empty(&query, [parts.max(1), 2], DType::F32);
    let plan = DecodePlan { vectors, group, together, alone, planes: Planes::of(&client) };
    let dtype = query.dtype;
    // SAFETY: threads check a key against the number of keys before they read it, and each cube writes the heads of its own block.
    unsafe {
        block_kernel::launch_unchecked::<R>(
            &launching(&client),
            CubeCount::Static(splits as u32, key_value_heads as u32, rows as u32),
            CubeDim::new_1d(BLOCK as u32),
            size,
            query.into_array_arg(),
            key.into_array_arg(),
            value.into_array_arg(),
            out.clone().into_array_arg(),
            partial.clone().into_array_arg(),
            statistics.clone().into_array_arg(),
            sizes,
            strides,
            first_block as u32,
            plan,
            sight,
            dtype.into(),
        );
        if !alone {
            combine_kernel::launch_unchecked::<R>(
                &launching(&client),
                CubeCount::Static((rows * heads) as u32, 1, 1),
                CubeDim::new_1d(vectors.next_multiple_of(32) as u32),
                size,
                partial.into_array_arg(),
                statistics.into_array_arg(),
                out.clone().into_array_arg(),
                splits as u32,
                vectors,
                dtype.into(),
            );
        }
    }
    Some(out)
}
