//! The product on matrix units whose registers a kernel can access.
//!
//! Tiles of both operands are copied straight to shared memory some steps ahead of their use. Fragments are read from there one
//! depth ahead of their use, across the end of a step too.

mod ahead;
mod narrow;
mod result;

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::packed::Operand;
use super::plan::PLANE;
use super::registers::{Area, K, M, N, ROW, commit, copy_columns, fragment_at, left, right_pair, thread_row, zeros};
use super::tile::{Sizes, Span, TilePlan, exists, span};
use ahead::{Filled, Right, RightExpand, begin, fill, open};
use narrow::multiply_more;
use result::{corner, write_pairs, write_rows};

/// The first vectors of both operands that a thread copies for a step.
#[derive(CubeType, Clone, Copy)]
struct Sources {
    a: u32,
    b: u32,
}

/// The sources of the first step.
#[cube]
fn first_sources(span: &Span, #[comptime] plan: TilePlan) -> Sources {
    let width = comptime!(ROW as u32);
    let sizes = span.sizes;
    let (across_a, across_b) = comptime!((plan.tile_a().vectors as u32, plan.tile_b().vectors as u32));
    let (down_a, right_a) = (UNIT_POS / across_a, UNIT_POS % across_a);
    let (down_b, right_b) = (UNIT_POS / across_b, UNIT_POS % across_b);
    let mut a = (span.row + down_a) * (sizes.k / width) + span.begin / width + right_a;
    if comptime!(plan.transposed_a) {
        a = (span.begin + down_a) * (sizes.m / width) + span.row / width + right_a;
    }
    let mut b = (span.begin + down_b) * (sizes.n / width) + span.column / width + right_b;
    if comptime!(plan.transposed_b) {
        b = (span.column + down_b) * (sizes.k / width) + span.begin / width + right_b;
    }
    Sources { a, b }
}

/// Vectors from the sources of a step to those of the next.
#[cube]
fn stride_of_sources(span: &Span, #[comptime] plan: TilePlan) -> Sources {
    let (width, deep) = comptime!((ROW as u32, plan.tiles.k as u32));
    let sizes = span.sizes;
    let mut a = comptime!(deep / width).runtime();
    if comptime!(plan.transposed_a) {
        a = sizes.m / width * deep;
    }
    let mut b = sizes.n / width * deep;
    if comptime!(plan.transposed_b) {
        b = comptime!(deep / width).runtime();
    }
    Sources { a, b }
}

/// Which copies of a step are begun: part `part` of `parts`, to a stage of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CopyPart {
    stage: usize,
    part: usize,
    parts: usize,
}

/// Begins a part of the copies of both tiles of a step, from the thread's own first vectors.
#[cube]
fn copy_step<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    a: &Array<Vector<F, S>>,
    b: &Right<F, S>,
    pipeline: &mut Pipeline<F, S, NA, NB, NC>,
    from: &Sources,
    step: u32,
    span: &Span,
    #[comptime] copies: CopyPart,
    #[comptime] plan: TilePlan,
) {
    let (tile_a, tile_b) = comptime!((plan.tile_a().copied(), plan.tile_b().copied()));
    comptime!(assert!(tile_a.in_columns() && tile_b.in_columns()));
    let stage = comptime!(copies.stage);
    let (part_a, part_b) = comptime!((tile_a.part(copies.part, copies.parts), tile_b.part(copies.part, copies.parts)));
    let to_a = comptime!((stage * tile_a.rows * tile_a.stride) as u32).runtime();
    let to_b = comptime!((stage * tile_b.rows * tile_b.stride) as u32).runtime();
    let width = comptime!(ROW as u32);
    let sizes = span.sizes;
    let depth = span.begin + step * comptime!(plan.tiles.k as u32);
    let (wide_m, wide_n, wide_k, end) = (sizes.m / width, sizes.n / width, sizes.k / width, span.end);
    let (row, column, deep) = (span.row, span.column, depth / width);
    if comptime!(plan.transposed_a) {
        let area = Area { row: depth, column: row / width, rows: end, columns: wide_m, stride: wide_m };
        copy_columns::<F, S>(a, from.a, &area, &mut pipeline.shared_a, to_a, part_a);
    } else {
        let area = Area { row, column: deep, rows: sizes.m, columns: wide_k, stride: wide_k };
        copy_columns::<F, S>(a, from.a, &area, &mut pipeline.shared_a, to_a, part_a);
    }
    match b {
        Right::Dense(b) => {
            if comptime!(plan.transposed_b) {
                let area = Area { row: column, column: deep, rows: sizes.n, columns: wide_k, stride: wide_k };
                copy_columns::<F, S>(b, from.b, &area, &mut pipeline.shared_b, to_b, part_b);
            } else {
                let area = Area { row: depth, column: column / width, rows: end, columns: wide_n, stride: wide_n };
                copy_columns::<F, S>(b, from.b, &area, &mut pipeline.shared_b, to_b, part_b);
            }
        }
        Right::Packed(_) => {}
    }
}

/// Where the rows of a plane's first fragments that this thread reads begin in stage 0, in vectors.
#[derive(CubeType, Clone, Copy)]
struct Start {
    a: u32,
    b: u32,
}

/// The tiles in shared memory, and a plane's registers.
#[derive(CubeType)]
struct Pipeline<F: Float, S: Size, NA: Size, NB: Size, NC: Size> {
    definition: cmma::MmaDefinition<F, F, f32>,
    /// Tiles of `A`, one a stage.
    shared_a: SharedMemory<Vector<F, S>>,
    /// Tiles of `B`, one a stage.
    shared_b: SharedMemory<Vector<F, S>>,
    /// Two sets of fragments of `A`: one is multiplied while the other is read.
    rows: Sequence<Array<Vector<F, NA>>>,
    /// Two sets of fragments of `B`.
    columns: Sequence<Array<Vector<F, NB>>>,
    sums: Sequence<Array<Vector<f32, NC>>>,
    /// One a stage: it opens once the stage's tiles have arrived.
    barriers: Sequence<Shared<Barrier>>,
}

/// Reads fragments of one depth of a stage into the set that is not being multiplied: row `part` of the plane's rows of
/// fragments, and the same share of its columns.
#[cube]
fn read_fragments<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    pipeline: &mut Pipeline<F, S, NA, NB, NC>,
    start: &Start,
    #[comptime] stage: usize,
    #[comptime] depth: usize,
    #[comptime] part: usize,
    #[comptime] plan: TilePlan,
) {
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let (stride_a, stride_b) = comptime!((tile_a.stride(ROW), tile_b.stride(ROW)));
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let (set, pairs) = comptime!((depth % 2, count_n / 2));

    let at = comptime!(stage * tile_a.rows * stride_a + fragment_at(part * M, depth * K, stride_a, !plan.transposed_a));
    let four = left::<F, S, NA>(&pipeline.definition, &pipeline.shared_a, start.a, at, plan.transposed_a);
    let row = pipeline.rows.index_mut(comptime!(set * count_m + part));
    #[unroll]
    for e in 0..4usize {
        row[e] = four[e];
    }

    #[unroll]
    for j in comptime!(part * pairs / count_m)..comptime!((part + 1) * pairs / count_m) {
        let at = comptime!(stage * tile_b.rows * stride_b + fragment_at(j * 2 * N, depth * K, stride_b, plan.transposed_b));
        let four = right_pair::<F, S, NB>(&pipeline.definition, &pipeline.shared_b, start.b, at, plan.transposed_b);
        #[unroll]
        for half in 0..2usize {
            let column = pipeline.columns.index_mut(comptime!(set * count_n + j * 2 + half));
            #[unroll]
            for e in 0..2usize {
                column[e] = four[comptime!(half * 2 + e)];
            }
        }
    }
}

/// Two sets of `count` fragments, each of `registers` vectors.
#[cube]
fn two_sets<F: Float, V: Size>(#[comptime] count: usize, #[comptime] registers: usize) -> Sequence<Array<Vector<F, V>>> {
    let mut fragments = Sequence::<Array<Vector<F, V>>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * count) {
        fragments.push(Array::<Vector<F, V>>::new(registers));
    }
    fragments
}

/// A step of the sum.
#[derive(CubeType, Clone, Copy)]
struct Step {
    number: u32,
    /// Parity of the barriers of this round of stages.
    phase: u32,
    /// Where the copies that are begun meanwhile come from.
    from: Sources,
}

/// The stage that a step uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stage {
    number: usize,
    /// Whether the steps that are read and copied meanwhile are known to exist.
    certain: bool,
}

/// One step of the sum: a plane multiplies the fragments of a stage's tiles. Meanwhile it reads the fragments that come next, and
/// begins the copies of a later step to the stage that was used before.
#[cube]
fn multiply_stage<F: Float, S: Size, NA: Size, NB: Size, NC: Size>(
    a: &Array<Vector<F, S>>,
    b: &mut Right<F, S>,
    pipeline: &mut Pipeline<F, S, NA, NB, NC>,
    start: &Start,
    step: &Step,
    span: &Span,
    #[comptime] stage: Stage,
    #[comptime] plan: TilePlan,
) {
    let (stage, certain) = comptime!((stage.number, stage.certain));
    let stages = comptime!(plan.tiles.stages);
    let (next, ahead) = comptime!(((stage + 1) % stages, (stage + stages - 1) % stages));
    let later = step.number + comptime!((stages - 1) as u32);
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let depths = comptime!(plan.tiles.k / K);
    #[unroll]
    for depth in 0..depths {
        let last = comptime!(depth + 1 == depths);
        if comptime!(last) {
            commit(pipeline.barriers.index(ahead));
            // After the last stage comes the first, which has been filled again.
            let mut parity = step.phase;
            if comptime!(next == 0) {
                parity = 1 - step.phase;
            }
            if exists(step.number + 1, span, certain) {
                pipeline.barriers.index(next).wait_parity(parity);
            }
            // All planes have read this stage, which is filled next.
            sync_cube();
        }
        let (read_stage, read_depth) = comptime!(if last { (next, 0) } else { (stage, depth + 1) });
        #[unroll]
        for i in 0..count_m {
            read_fragments::<F, S, NA, NB, NC>(pipeline, start, read_stage, read_depth, i, plan);
            if comptime!(!last) {
                // Copies are spread among products, so that loads don't queue behind them.
                let (part, parts) = comptime!((depth * count_m + i, (depths - 1) * count_m));
                if exists(later, span, certain) {
                    let copies = comptime!(CopyPart { stage: ahead, part, parts });
                    copy_step::<F, S, NA, NB, NC>(a, b, pipeline, &step.from, later, span, copies, plan);
                }
                let filled = comptime!(Filled { stage: next, part, parts, certain });
                fill::<F, S>(b, &mut pipeline.shared_b, step.from.b, step.number, span, filled, plan);
            }
            // Without this barrier NVIDIA's assembler moves loads back to their use. It costs nothing where threads run in step.
            sync_plane();
            #[unroll]
            for j in 0..count_n {
                pipeline.definition.execute_inplace(
                    pipeline.rows.index(comptime!(depth % 2 * count_m + i)),
                    pipeline.columns.index(comptime!(depth % 2 * count_n + j)),
                    pipeline.sums.index_mut(comptime!(i * count_n + j)),
                );
            }
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn product_kernel<F: Float, X: Float, O: Float, S: Size, P: Size, V: Size>(
    a: &Array<Vector<F, S>>,
    b: Operand<Vector<F, S>>,
    more_a: &Array<Vector<F, P>>,
    more_b: &Array<Vector<X, P>>,
    out: &mut Array<Vector<O, V>>,
    sizes: Sizes,
    alpha: f32,
    #[comptime] plan: TilePlan,
    #[define(F)] _dtype: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tiles = comptime!(plan.tiles);
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let mut b = open::<F, S>(b, plan);
    let (stage_a, stage_b) = comptime!((tile_a.rows * tile_a.stride(ROW), tile_b.rows * tile_b.stride(ROW)));
    let shared_a = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_a * tiles.stages), 16usize);
    let shared_b = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_b * tiles.stages), 16usize);
    let span = span(sizes, comptime!(TilePlan { more: false, ..plan }));

    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);
    let (count_m, count_n) = comptime!((plan.fragments().m, plan.fragments().n));
    let sums = zeros::<NC>(comptime!(count_m * count_n));
    let rows = two_sets::<F, NA>(count_m, 4usize);
    let columns = two_sets::<F, NB>(count_n, 2usize);
    let first_m = PLANE_POS / comptime!(tiles.planes_n as u32) * comptime!((count_m * M) as u32);
    let first_n = PLANE_POS % comptime!(tiles.planes_n as u32) * comptime!((count_n * N) as u32);
    let (stride_a, stride_b) = comptime!((tile_a.stride(ROW), tile_b.stride(ROW)));
    let start = Start {
        a: thread_row(stride_a, plan.transposed_a)
            + first_m * comptime!(fragment_at(ROW, 0, stride_a, !plan.transposed_a) as u32) / 8,
        b: thread_row(stride_b, plan.transposed_b)
            + first_n * comptime!(fragment_at(ROW, 0, stride_b, plan.transposed_b) as u32) / 8,
    };

    let stages = comptime!(tiles.stages);
    let mut barriers = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..stages {
        barriers.push(Barrier::shared(comptime!((tiles.threads() / PLANE) as u32).runtime(), UNIT_POS == 0));
    }
    sync_cube();
    let mut pipeline = Pipeline::<F, S, NA, NB, NC> { definition, shared_a, shared_b, rows, columns, sums, barriers };
    // Kept and advanced: for want of registers they would else be recomputed from the sizes at each copy.
    let sources = first_sources(&span, plan);
    let further = stride_of_sources(&span, plan);
    let (mut from_a, mut from_b) = (sources.a, sources.b);
    #[unroll]
    for stage in 0..comptime!(stages - 1) {
        let step = comptime!(stage as u32).runtime();
        if step < span.steps {
            let from = Sources { a: from_a, b: from_b };
            let copies = comptime!(CopyPart { stage, part: 0, parts: 1 });
            copy_step::<F, S, NA, NB, NC>(a, &b, &mut pipeline, &from, step, &span, copies, plan);
        }
        commit(pipeline.barriers.index(stage));
        from_a += further.a;
        from_b += further.b;
    }
    match &mut b {
        Right::Dense(_) => {}
        Right::Packed(ahead) => {
            from_b = begin::<F, S>(ahead, &mut pipeline.shared_b, sources.b, further.b, &span, plan);
        }
    }
    let corner = corner(&span, first_m, first_n);
    // The narrow pair comes next, while registers are free and the first copies are under way.
    if comptime!(plan.more) {
        let mut depth = 0u32;
        while depth < sizes.more_k {
            multiply_more::<F, X, P, NA, NB, NC>(
                &pipeline.definition,
                more_a,
                more_b,
                &mut pipeline.sums,
                &corner,
                depth,
                sizes.more_k,
                plan,
            );
            depth += comptime!(K as u32);
        }
    }
    let depths = comptime!(tiles.k / K);
    // A step's last depth uses the second set of fragments, while the next step's first depth is read into the first.
    comptime!(assert!(depths % 2 == 0));
    pipeline.barriers.index(0usize).wait_parity(0u32);
    sync_cube();
    #[unroll]
    for i in 0..count_m {
        read_fragments::<F, S, NA, NB, NC>(&mut pipeline, &start, 0usize, 0usize, i, plan);
    }
    let mut step = 0u32;
    let mut phase = 0u32;
    // Rounds of all stages whose copies are all of steps that exist: nothing needs to be asked.
    while step + comptime!(2 * (stages - 1) as u32) < span.steps {
        #[unroll]
        for stage in 0..stages {
            let number = step + comptime!(stage as u32);
            let now = Step { number, phase, from: Sources { a: from_a, b: from_b } };
            let stage = comptime!(Stage { number: stage, certain: true });
            multiply_stage::<F, S, NA, NB, NC>(a, &mut b, &mut pipeline, &start, &now, &span, stage, plan);
            from_a += further.a;
            from_b += further.b;
        }
        step += comptime!(stages as u32);
        phase = 1 - phase;
    }
    while step < span.steps {
        #[unroll]
        for stage in 0..stages {
            let number = step + comptime!(stage as u32);
            if number < span.steps {
                let now = Step { number, phase, from: Sources { a: from_a, b: from_b } };
                let stage = comptime!(Stage { number: stage, certain: false });
                multiply_stage::<F, S, NA, NB, NC>(a, &mut b, &mut pipeline, &start, &now, &span, stage, plan);
                from_a += further.a;
                from_b += further.b;
            }
        }
        step += comptime!(stages as u32);
        phase = 1 - phase;
    }

    if comptime!(plan.out_vector == ROW) {
        sync_cube();
        write_rows::<F, O, S, P, V, NC>(&pipeline.sums, &mut pipeline.shared_b, out, &corner, alpha, plan);
    } else {
        write_pairs::<O, V, NC>(&pipeline.sums, out, &corner, alpha, plan);
    }
}
