//! The product on matrix units whose registers a kernel may see.
//!
//! Tiles of both operands are copied to shared memory some steps ahead of their use, without a stay in registers; fragments are
//! read from there a depth ahead of theirs, over the end of a step, too.

mod narrow;
mod result;

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::plan::PLANE;
use super::registers::{K, M, N, ROW, commit, copy_columns, fragment_at, lane_row, left, right_pair, zeros};
use super::tile::{Span, TilePlan, span};
use narrow::multiply_more;
use result::{corner, write_pairs, write_rows};

/// Where a unit's copies of the tiles of a step come from: the numbers of its first vectors.
#[derive(CubeType, Clone, Copy)]
struct Sources {
    a: u32,
    b: u32,
}

/// The sources of the first step.
#[cube]
fn first_sources(m: u32, n: u32, k: u32, span: &Span, #[comptime] plan: TilePlan) -> Sources {
    let width = comptime!(ROW as u32);
    let (across_a, across_b) = comptime!((plan.tile_a().vectors as u32, plan.tile_b().vectors as u32));
    let (down_a, right_a) = (UNIT_POS / across_a, UNIT_POS % across_a);
    let (down_b, right_b) = (UNIT_POS / across_b, UNIT_POS % across_b);
    let mut a = (span.row + down_a) * (k / width) + span.begin / width + right_a;
    if comptime!(plan.transposed_a) {
        a = (span.begin + down_a) * (m / width) + span.row / width + right_a;
    }
    let mut b = (span.begin + down_b) * (n / width) + span.column / width + right_b;
    if comptime!(plan.transposed_b) {
        b = (span.column + down_b) * (k / width) + span.begin / width + right_b;
    }
    Sources { a, b }
}

/// Vectors from the sources of a step to those of the next.
#[cube]
fn stride_of_sources(m: u32, n: u32, #[comptime] plan: TilePlan) -> Sources {
    let (width, deep) = comptime!((ROW as u32, plan.tiles.k as u32));
    let mut a = comptime!(deep / width).runtime();
    if comptime!(plan.transposed_a) {
        a = m / width * deep;
    }
    let mut b = n / width * deep;
    if comptime!(plan.transposed_b) {
        b = comptime!(deep / width).runtime();
    }
    Sources { a, b }
}

/// Begins part `part` of `parts` of the copies of both tiles of a step.
#[cube]
#[allow(clippy::too_many_arguments)]
fn copy_step<F: Float, S: Size>(
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<F, S>>,
    shared_a: &mut SharedMemory<Vector<F, S>>,
    shared_b: &mut SharedMemory<Vector<F, S>>,
    from_a: u32,
    from_b: u32,
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
    comptime!(assert!(tile_a.in_columns() && tile_b.in_columns()));
    let (a0, a1) = comptime!((tile_a.count() * part / parts, tile_a.count() * (part + 1) / parts));
    let (b0, b1) = comptime!((tile_b.count() * part / parts, tile_b.count() * (part + 1) / parts));
    let to_a = comptime!((stage * tile_a.rows * tile_a.stride) as u32).runtime();
    let to_b = comptime!((stage * tile_b.rows * tile_b.stride) as u32).runtime();
    let width = comptime!(ROW as u32);
    let depth = span.begin + step * comptime!(plan.tiles.k as u32);
    let (wide_m, wide_n, wide_k, end) = (m / width, n / width, k / width, span.end);
    let (row, column, deep) = (span.row, span.column, depth / width);
    if comptime!(plan.transposed_a) {
        copy_columns::<F, S>(a, shared_a, to_a, from_a, depth, row / width, end, wide_m, wide_m, a0, a1, tile_a);
    } else {
        copy_columns::<F, S>(a, shared_a, to_a, from_a, row, deep, m, wide_k, wide_k, a0, a1, tile_a);
    }
    if comptime!(plan.transposed_b) {
        copy_columns::<F, S>(b, shared_b, to_b, from_b, column, deep, n, wide_k, wide_k, b0, b1, tile_b);
    } else {
        copy_columns::<F, S>(b, shared_b, to_b, from_b, depth, column / width, end, wide_n, wide_n, b0, b1, tile_b);
    }
}

/// Where the lane rows of a plane's first fragments begin in stage 0, in vectors.
#[derive(CubeType, Clone, Copy)]
struct Start {
    a: u32,
    b: u32,
}

/// Reads part `part` of as many as a plane has rows of fragments of those of a depth of a stage, into the one of two sets that is
/// not multiplied meanwhile: one of the rows, and as much of the columns.
#[cube]
#[allow(clippy::too_many_arguments)]
fn read_fragments<F: Float, S: Size, NA: Size, NB: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    shared_a: &SharedMemory<Vector<F, S>>,
    shared_b: &SharedMemory<Vector<F, S>>,
    rows: &mut Sequence<Array<Vector<F, NA>>>,
    columns: &mut Sequence<Array<Vector<F, NB>>>,
    start: &Start,
    #[comptime] stage: usize,
    #[comptime] depth: usize,
    #[comptime] part: usize,
    #[comptime] plan: TilePlan,
) {
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let (stride_a, stride_b) = comptime!((tile_a.stride(ROW), tile_b.stride(ROW)));
    let (count_m, count_n) = comptime!(plan.fragments());
    let (set, pairs) = comptime!((depth % 2, count_n / 2));

    let at = comptime!(stage * tile_a.rows * stride_a + fragment_at(part * M, depth * K, stride_a, !plan.transposed_a));
    let four = left::<F, S, NA>(definition, shared_a, start.a, at, plan.transposed_a);
    let row = rows.index_mut(comptime!(set * count_m + part));
    #[unroll]
    for e in 0..4usize {
        row[e] = four[e];
    }

    #[unroll]
    for j in comptime!(part * pairs / count_m)..comptime!((part + 1) * pairs / count_m) {
        let at = comptime!(stage * tile_b.rows * stride_b + fragment_at(j * 2 * N, depth * K, stride_b, plan.transposed_b));
        let four = right_pair::<F, S, NB>(definition, shared_b, start.b, at, plan.transposed_b);
        #[unroll]
        for half in 0..2usize {
            let column = columns.index_mut(comptime!(set * count_n + j * 2 + half));
            #[unroll]
            for e in 0..2usize {
                column[e] = four[comptime!(half * 2 + e)];
            }
        }
    }
}

/// Two sets of `count` fragments of `registers` vectors.
#[cube]
fn two_sets<F: Float, V: Size>(#[comptime] count: usize, #[comptime] registers: usize) -> Sequence<Array<Vector<F, V>>> {
    let mut fragments = Sequence::<Array<Vector<F, V>>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * count) {
        fragments.push(Array::<Vector<F, V>>::new(registers));
    }
    fragments
}

/// Whether there is a step of that number: `certain` where nothing needs to be asked.
#[cube]
fn exists(step: u32, span: &Span, #[comptime] certain: bool) -> bool {
    if comptime!(certain) { true.runtime() } else { step < span.steps }
}

/// One step of the sum: a plane multiplies the fragments of a stage's tiles, and meanwhile reads those to come and begins the copies
/// of the step that fills the stage before. `certain` where that step exists, which is then known of the next, too.
#[cube]
#[allow(clippy::too_many_arguments)]
fn multiply_stage<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<F, S>>,
    shared_a: &mut SharedMemory<Vector<F, S>>,
    shared_b: &mut SharedMemory<Vector<F, S>>,
    rows: &mut Sequence<Array<Vector<F, NA>>>,
    columns: &mut Sequence<Array<Vector<F, NB>>>,
    sums: &mut Sequence<Array<Vector<f32, NC>>>,
    barriers: &Sequence<Shared<Barrier>>,
    start: &Start,
    from_a: u32,
    from_b: u32,
    now: u32,
    phase: u32,
    m: u32,
    n: u32,
    k: u32,
    span: &Span,
    #[comptime] stage: usize,
    #[comptime] certain: bool,
    #[comptime] plan: TilePlan,
) {
    let stages = comptime!(plan.tiles.stages);
    let (next, ahead) = comptime!(((stage + 1) % stages, (stage + stages - 1) % stages));
    let later = now + comptime!((stages - 1) as u32);
    let (count_m, count_n) = comptime!(plan.fragments());
    let depths = comptime!(plan.tiles.k / K);
    #[unroll]
    for depth in 0..depths {
        let last = comptime!(depth + 1 == depths);
        if comptime!(last) {
            commit(barriers.index(ahead));
            // After the last stage comes the first, which has been filled once more.
            let mut parity = phase;
            if comptime!(next == 0) {
                parity = 1 - phase;
            }
            if exists(now + 1, span, certain) {
                barriers.index(next).wait_parity(parity);
            }
            // All planes have read this stage, which is filled next.
            sync_cube();
        }
        let (read_stage, read_depth) = comptime!(if last { (next, 0) } else { (stage, depth + 1) });
        #[unroll]
        for i in 0..count_m {
            read_fragments::<F, S, NA, NB>(
                definition, &*shared_a, &*shared_b, rows, columns, start, read_stage, read_depth, i, plan,
            );
            if comptime!(!last) {
                // Copies are strewn among products, so that loads don't queue behind them.
                let (part, parts) = comptime!((depth * count_m + i, (depths - 1) * count_m));
                if exists(later, span, certain) {
                    copy_step::<F, S>(
                        a, b, shared_a, shared_b, from_a, from_b, later, m, n, k, span, ahead, part, parts, plan,
                    );
                }
            }
            // Without the barrier, which costs lanes that keep step nothing, NVIDIA's assembler moves loads back to their use.
            sync_plane();
            #[unroll]
            for j in 0..count_n {
                definition.execute_inplace(
                    rows.index(comptime!(depth % 2 * count_m + i)),
                    columns.index(comptime!(depth % 2 * count_n + j)),
                    sums.index_mut(comptime!(i * count_n + j)),
                );
            }
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
    let mut rows = two_sets::<F, NA>(count_m, 4usize);
    let mut columns = two_sets::<F, NB>(count_n, 2usize);
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
    // Kept and moved on, as they would else be computed anew from the sizes at each copy, for want of registers.
    let sources = first_sources(m, n, k, &span, plan);
    let further = stride_of_sources(m, n, plan);
    let (mut from_a, mut from_b) = (sources.a, sources.b);
    #[unroll]
    for stage in 0..comptime!(stages - 1) {
        let step = comptime!(stage as u32).runtime();
        if step < span.steps {
            copy_step::<F, S>(
                a,
                b,
                &mut shared_a,
                &mut shared_b,
                from_a,
                from_b,
                step,
                m,
                n,
                k,
                &span,
                stage,
                0usize,
                1usize,
                plan,
            );
        }
        commit(barriers.index(stage));
        from_a += further.a;
        from_b += further.b;
    }
    let corner = corner(&span, first_m, first_n, m, n);
    // The narrow pair comes next, while registers are free and the first copies are on their way.
    if comptime!(plan.more) {
        let mut depth = 0u32;
        while depth < more_k {
            multiply_more::<F, X, P, NA, NB, NC>(
                &definition,
                more_a,
                more_b,
                &mut sums,
                corner.row,
                corner.column,
                depth,
                m,
                n,
                more_k,
                plan,
            );
            depth += comptime!(K as u32);
        }
    }
    let depths = comptime!(tiles.k / K);
    // A step's last depth is of the second set, while the next step's first comes to the first.
    comptime!(assert!(depths % 2 == 0));
    barriers.index(0usize).wait_parity(0u32);
    sync_cube();
    #[unroll]
    for i in 0..count_m {
        read_fragments::<F, S, NA, NB>(
            &definition,
            &shared_a,
            &shared_b,
            &mut rows,
            &mut columns,
            &start,
            0usize,
            0usize,
            i,
            plan,
        );
    }
    let mut step = 0u32;
    let mut phase = 0u32;
    // Rounds of all stages whose copies all are of steps that exist: nothing is asked on the way.
    while step + comptime!(2 * (stages - 1) as u32) < span.steps {
        #[unroll]
        for stage in 0..stages {
            multiply_stage::<F, S, NA, NB, NC>(
                &definition,
                a,
                b,
                &mut shared_a,
                &mut shared_b,
                &mut rows,
                &mut columns,
                &mut sums,
                &barriers,
                &start,
                from_a,
                from_b,
                step + comptime!(stage as u32),
                phase,
                m,
                n,
                k,
                &span,
                stage,
                true,
                plan,
            );
            from_a += further.a;
            from_b += further.b;
        }
        step += comptime!(stages as u32);
        phase = 1 - phase;
    }
    while step < span.steps {
        #[unroll]
        for stage in 0..stages {
            let now = step + comptime!(stage as u32);
            if now < span.steps {
                multiply_stage::<F, S, NA, NB, NC>(
                    &definition,
                    a,
                    b,
                    &mut shared_a,
                    &mut shared_b,
                    &mut rows,
                    &mut columns,
                    &mut sums,
                    &barriers,
                    &start,
                    from_a,
                    from_b,
                    now,
                    phase,
                    m,
                    n,
                    k,
                    &span,
                    stage,
                    false,
                    plan,
                );
                from_a += further.a;
                from_b += further.b;
            }
        }
        step += comptime!(stages as u32);
        phase = 1 - phase;
    }

    if comptime!(plan.out_vector == ROW) {
        sync_cube();
        write_rows::<F, O, S, P, V, NC>(&sums, &mut shared_b, out, &corner, alpha, plan);
    } else {
        write_pairs::<O, V, NC>(&sums, out, &corner, alpha, plan);
    }
}
