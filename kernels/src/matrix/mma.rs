//! The product on matrix units whose registers a kernel may see.
//!
//! Tiles of both operands are copied to shared memory some steps ahead of their use, without a stay in registers.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::plan::PLANE;
use super::registers::{K, M, N, ROW, commit, copy_tile, fragment_at, lane_row, left, right, zeros};
use super::tile::{Span, TilePlan, span};

/// Begins part `part` of `parts` of the copies of both tiles of a step.
#[cube]
fn copy_step<F: Float, S: Size>(
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<F, S>>,
    shared_a: &mut SharedMemory<Vector<F, S>>,
    shared_b: &mut SharedMemory<Vector<F, S>>,
    step: u32,
    m: u32,
    n: u32,
    k: u32,
    span: &Span,
    #[comptime] stage: usize,
    #[comptime] part: usize,
    #[comptime] parts: usize,
    #[comptime] plan: TilePlan,
) {
    let (tile_a, tile_b) = comptime!((plan.tile_a().copied(), plan.tile_b().copied()));
    let (a0, a1) = comptime!((tile_a.count() * part / parts, tile_a.count() * (part + 1) / parts));
    let (b0, b1) = comptime!((tile_b.count() * part / parts, tile_b.count() * (part + 1) / parts));
    let to_a = comptime!((stage * tile_a.rows * tile_a.stride) as u32).runtime();
    let to_b = comptime!((stage * tile_b.rows * tile_b.stride) as u32).runtime();
    let width = comptime!(ROW as u32);
    let depth = span.begin + step * comptime!(plan.tiles.k as u32);
    let (wide_m, wide_n, wide_k, end) = (m / width, n / width, k / width, span.end);
    if comptime!(plan.transposed_a) {
        copy_tile::<F, S>(a, shared_a, to_a, 0u32, depth, span.row / width, end, wide_m, wide_m, a0, a1, tile_a);
    } else {
        copy_tile::<F, S>(a, shared_a, to_a, 0u32, span.row, depth / width, m, wide_k, wide_k, a0, a1, tile_a);
    }
    if comptime!(plan.transposed_b) {
        copy_tile::<F, S>(b, shared_b, to_b, 0u32, span.column, depth / width, n, wide_k, wide_k, b0, b1, tile_b);
    } else {
        copy_tile::<F, S>(b, shared_b, to_b, 0u32, depth, span.column / width, end, wide_n, wide_n, b0, b1, tile_b);
    }
}

/// Where the lane rows of a plane's first fragments begin in stage 0, in vectors.
#[derive(CubeType, Clone, Copy)]
struct Start {
    a: u32,
    b: u32,
}

/// Adds the product of a stage's tiles to a plane's sums, and meanwhile begins the copies of step `later`, where there is one, to
/// the stage `ahead`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn multiply<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<F, S>>,
    shared_a: &mut SharedMemory<Vector<F, S>>,
    shared_b: &mut SharedMemory<Vector<F, S>>,
    sums: &mut Sequence<Array<Vector<f32, NC>>>,
    start: &Start,
    later: u32,
    m: u32,
    n: u32,
    k: u32,
    span: &Span,
    #[comptime] stage: usize,
    #[comptime] ahead: usize,
    #[comptime] plan: TilePlan,
) {
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let (stride_a, stride_b) = comptime!((tile_a.stride(ROW), tile_b.stride(ROW)));
    let start_a = start.a + comptime!((stage * tile_a.rows * stride_a) as u32);
    let start_b = start.b + comptime!((stage * tile_b.rows * stride_b) as u32);
    let (count_m, count_n) = comptime!(plan.fragments());
    let (pairs, depths) = comptime!((count_n / 2, plan.tiles.k / K));
    // Loads go some products ahead of their use; without the barrier, which costs lanes that keep step nothing, NVIDIA's assembler
    // moves them back to it.
    let mut rows = Sequence::<Array<Vector<F, NA>>>::new();
    let mut columns = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for j in 0..pairs {
        let at = comptime!(fragment_at(j * 2 * N, 0, stride_b, plan.transposed_b));
        right::<F, S, NB>(&mut columns, definition, &*shared_b, start_b, at, plan.transposed_b);
    }
    rows.push(left::<F, S, NA>(definition, &*shared_a, start_a, 0usize, plan.transposed_a));
    #[unroll]
    for depth in 0..depths {
        #[unroll]
        for i in 0..count_m {
            let next = comptime!(depth * count_m + i + 1);
            if comptime!(next < depths * count_m) {
                let at = comptime!(fragment_at(next % count_m * M, next / count_m * K, stride_a, !plan.transposed_a));
                rows.push(left::<F, S, NA>(definition, &*shared_a, start_a, at, plan.transposed_a));
            }
            if comptime!(depth + 1 < depths) {
                #[unroll]
                for j in comptime!(i * pairs / count_m)..comptime!((i + 1) * pairs / count_m) {
                    let at = comptime!(fragment_at(j * 2 * N, (depth + 1) * K, stride_b, plan.transposed_b));
                    right::<F, S, NB>(&mut columns, definition, &*shared_b, start_b, at, plan.transposed_b);
                }
            }
            // Copies are strewn among products, so that loads don't queue behind them.
            if later < span.steps {
                let (part, parts) = comptime!((depth * count_m + i, depths * count_m));
                copy_step::<F, S>(a, b, shared_a, shared_b, later, m, n, k, span, ahead, part, parts, plan);
            }
            sync_plane();
            #[unroll]
            for j in 0..count_n {
                definition.execute_inplace(
                    rows.index(comptime!(depth * count_m + i)),
                    columns.index(comptime!(depth * count_n + j)),
                    sums.index_mut(comptime!(i * count_n + j)),
                );
            }
        }
    }
}

/// Adds 16 terms of the second pair's product to a plane's sums: so few that each lane reads its own from memory.
#[cube]
fn multiply_more<F: Float, X: Float, P: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    more_a: &Array<Vector<F, P>>,
    more_b: &Array<Vector<X, P>>,
    sums: &mut Sequence<Array<Vector<f32, NC>>>,
    first_row: u32,
    first_column: u32,
    depth: u32,
    m: u32,
    n: u32,
    more_k: u32,
    #[comptime] plan: TilePlan,
) {
    let (count_m, count_n) = comptime!(plan.fragments());
    let lane_row = UNIT_POS_PLANE / 4;
    let lane_depth = depth + UNIT_POS_PLANE % 4 * 2;
    let mut columns = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for j in 0..count_n {
        let column = first_column + comptime!((j * N) as u32) + lane_row;
        let mut two = Array::<Vector<F, NB>>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            let deep = lane_depth + comptime!((half * 8) as u32);
            let mut pair = Vector::<F, NB>::new(F::new(0.0));
            if column < n && deep < more_k {
                if comptime!(plan.transposed_b) {
                    pair = Vector::<F, NB>::cast_from(more_b[(column * (more_k / 2) + deep / 2) as usize]);
                } else {
                    #[unroll]
                    for e in 0..2usize {
                        let neighbours = more_b[((deep + e as u32) * (n / 2) + column / 2) as usize];
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
            let row = first_row + comptime!((i * M + quarter % 2 * 8) as u32) + lane_row;
            let deep = lane_depth + comptime!((quarter / 2 * 8) as u32);
            four[quarter] = Vector::<F, NA>::new(F::new(0.0));
            if row < m && deep < more_k {
                four[quarter] = Vector::<F, NA>::cast_from(more_a[(row * (more_k / 2) + deep / 2) as usize]);
            }
        }
        #[unroll]
        for j in 0..count_n {
            definition.execute_inplace(&four, columns.index(j), sums.index_mut(comptime!(i * count_n + j)));
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, X: Float, O: Float, S: Size, P: Size, V: Size>(
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<F, S>>,
    more_a: &Array<Vector<F, P>>,
    more_b: &Array<Vector<X, P>>,
    out: &mut Array<Vector<O, V>>,
    m: u32,
    n: u32,
    k: u32,
    more_k: u32,
    part: u32,
    alpha: f32,
    #[comptime] plan: TilePlan,
    #[define(F)] _dtype: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tiles = comptime!(plan.tiles);
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let (stage_a, stage_b) = comptime!((tile_a.rows * tile_a.stride(ROW), tile_b.rows * tile_b.stride(ROW)));
    let mut shared_a = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_a * tiles.stages), 16usize);
    let mut shared_b = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_b * tiles.stages), 16usize);
    let span = span(m, n, k, 0u32, part, comptime!(TilePlan { more: false, ..plan }));

    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);
    let (count_m, count_n) = comptime!(plan.fragments());
    let mut sums = zeros::<NC>(comptime!(count_m * count_n));
    let first_m = PLANE_POS / comptime!(tiles.planes_n as u32) * comptime!((count_m * M) as u32);
    let first_n = PLANE_POS % comptime!(tiles.planes_n as u32) * comptime!((count_n * N) as u32);
    let (stride_a, stride_b) = comptime!((tile_a.stride(ROW), tile_b.stride(ROW)));
    let start = Start {
        a: lane_row(stride_a, plan.transposed_a)
            + first_m * comptime!(fragment_at(ROW, 0, stride_a, !plan.transposed_a) as u32) / 8,
        b: lane_row(stride_b, plan.transposed_b)
            + first_n * comptime!(fragment_at(ROW, 0, stride_b, plan.transposed_b) as u32) / 8,
    };

    let stages = comptime!(tiles.stages);
    let mut barriers = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..stages {
        barriers.push(Barrier::shared(comptime!((tiles.units() / PLANE) as u32).runtime(), UNIT_POS == 0));
    }
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(stages - 1) {
        if (stage as u32) < span.steps {
            copy_step::<F, S>(a, b, &mut shared_a, &mut shared_b, stage as u32, m, n, k, &span, stage, 0usize, 1usize, plan);
        }
        commit(barriers.index(stage));
    }
    // The narrow pair comes next, while registers are free and the first copies are on their way.
    if comptime!(plan.more) {
        let (row, column) = (span.row + first_m, span.column + first_n);
        let mut depth = 0u32;
        while depth < more_k {
            multiply_more::<F, X, P, NA, NB, NC>(
                &definition,
                more_a,
                more_b,
                &mut sums,
                row,
                column,
                depth,
                m,
                n,
                more_k,
                plan,
            );
            depth += comptime!(K as u32);
        }
    }
    let mut step = 0u32;
    let mut phase = 0u32;
    while step < span.steps {
        #[unroll]
        for stage in 0..stages {
            if step + (stage as u32) < span.steps {
                let ahead = comptime!((stage + stages - 1) % stages);
                let later = step + comptime!((stage + stages - 1) as u32);
                barriers.index(stage).wait_parity(phase);
                // All planes are done with the stage that is filled next.
                sync_cube();
                multiply::<F, S, NA, NB, NC>(
                    &definition,
                    a,
                    b,
                    &mut shared_a,
                    &mut shared_b,
                    &mut sums,
                    &start,
                    later,
                    m,
                    n,
                    k,
                    &span,
                    stage,
                    ahead,
                    plan,
                );
                commit(barriers.index(ahead));
            }
        }
        step += comptime!(stages as u32);
        phase = 1 - phase;
    }

    // A lane has two neighbours of a row, and the same two of the row eight below.
    let out_vector = comptime!(plan.out_vector);
    let offset = CUBE_POS_Y * m * n;
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for j in 0..count_n {
            let sum = sums.index(comptime!(i * count_n + j));
            #[unroll]
            for half in 0..2usize {
                let to_row = span.row + first_m + comptime!((i * M + half * 8) as u32) + UNIT_POS_PLANE / 4;
                let to_column = span.column + first_n + comptime!((j * N) as u32) + UNIT_POS_PLANE % 4 * 2;
                let mut inside = true;
                if comptime!(plan.ragged[0]) {
                    inside = inside && to_row < m;
                }
                if inside {
                    let two = sum[half];
                    let at = offset + to_row * n + to_column;
                    if comptime!(out_vector == 2) {
                        let mut inside = true;
                        if comptime!(plan.ragged[1]) {
                            inside = to_column < n;
                        }
                        if inside {
                            let mut value = Vector::<f32, V>::new(0.0f32);
                            value[0] = two[0] * alpha;
                            value[1] = two[1] * alpha;
                            out[(at / 2) as usize] = Vector::<O, V>::cast_from(value);
                        }
                    } else {
                        #[unroll]
                        for e in 0..2usize {
                            if to_column + (e as u32) < n {
                                out[at as usize + e] = Vector::<O, V>::cast_from(Vector::<f32, V>::new(two[e] * alpha));
                            }
                        }
                    }
                }
            }
        }
    }
}
