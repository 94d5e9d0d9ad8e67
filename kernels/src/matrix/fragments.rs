//! The product on matrix units: tiles in shared memory, fragments in registers, sums in f32.

use cubecl::prelude::*;

use super::lanes::{write_fragment, zeros};
use super::packed::{Operand, kept, open};
use super::plan::PLANE;
use super::step::{fetch_step, hold, put_b};
use super::tile::{Sizes, Span, TilePlan, Writes, put, span};

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, G: Float, X: Float, O: Float, N: Size, V: Size>(
    a: &Array<Vector<F, N>>,
    b: Operand<Vector<G, N>>,
    more_a: &Array<Vector<F, N>>,
    more_b: &Array<Vector<X, N>>,
    out: &mut Array<Vector<O, V>>,
    sizes: Sizes,
    alpha: f32,
    #[comptime] plan: TilePlan,
    #[define(F)] _dtype: StorageType,
    #[define(G)] _dtype_b: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tiles = comptime!(plan.tiles);
    let tile_a = comptime!(plan.tile_a());
    let tile_b = comptime!(plan.tile_b());
    let vector = comptime!(plan.vector);
    let stage_a = comptime!(tile_a.rows * tile_a.stride(vector));
    let stage_b = comptime!(tile_b.rows * tile_b.stride(vector));
    let mut shared_a = SharedMemory::<Vector<F, N>>::new_aligned(comptime!(stage_a * tiles.stages), 32usize);
    let mut shared_b = SharedMemory::<Vector<F, N>>::new_aligned(comptime!(stage_b * tiles.stages), 32usize);
    let b = open::<Vector<G, N>>(b);
    let mut held = hold::<G, F, N>(&b, plan);

    let width = comptime!(vector as u32);
    let span = span(sizes, plan);

    let fragment = comptime!(tiles.fragment);
    let (count_m, count_n) = comptime!((tiles.fragments().m, tiles.fragments().n));
    let sums = zeros(fragment, comptime!(count_m * count_n));
    let plane_m = PLANE_POS / comptime!(tiles.planes_n as u32);
    let plane_n = PLANE_POS % comptime!(tiles.planes_n as u32);
    let first_m = plane_m * comptime!((count_m * fragment.m) as u32);
    let first_n = plane_n * comptime!((count_n * fragment.n) as u32);

    let mut step = 0u32;
    while step <= span.steps {
        // Tile `step` is read into registers while tile `step - 1` is multiplied.
        if step < span.steps {
            fetch_step::<F, G, X, N>(a, &b, more_a, more_b, &mut held, step, &span, plan);
        }
        if step > 0 {
            let stage = (step - 1) % comptime!(tiles.stages as u32);
            let base_a = stage * comptime!(stage_a as u32);
            let base_b = stage * comptime!(stage_b as u32);
            let stride_a = comptime!((tile_a.stride(vector) * vector) as u32);
            let stride_b = comptime!((tile_b.stride(vector) * vector) as u32);
            #[unroll]
            for depth in 0..comptime!(tiles.k / fragment.k) {
                let deep = comptime!((depth * fragment.k) as u32);
                let mut right = Sequence::<cmma::Matrix<F>>::new();
                #[unroll]
                for j in 0..count_n {
                    let at = first_n + comptime!((j * fragment.n) as u32);
                    let layout = if comptime!(plan.transposed_b) {
                        cmma::MatrixLayout::ColMajor
                    } else {
                        cmma::MatrixLayout::RowMajor
                    };
                    let from = if comptime!(plan.transposed_b) {
                        base_b + at * comptime!(tile_b.stride(vector) as u32) + deep / width
                    } else {
                        base_b + deep * comptime!(tile_b.stride(vector) as u32) + at / width
                    };
                    let matrix = unsafe {
                        cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::B, fragment.m, fragment.n, fragment.k, layout)
                    };
                    cmma::load(&matrix, &shared_b.slice(from as usize, shared_b.len()), stride_b);
                    right.push(matrix);
                }
                #[unroll]
                for i in 0..count_m {
                    let at = first_m + comptime!((i * fragment.m) as u32);
                    let layout = if comptime!(plan.transposed_a) {
                        cmma::MatrixLayout::ColMajor
                    } else {
                        cmma::MatrixLayout::RowMajor
                    };
                    let from = if comptime!(plan.transposed_a) {
                        base_a + deep * comptime!(tile_a.stride(vector) as u32) + at / width
                    } else {
                        base_a + at * comptime!(tile_a.stride(vector) as u32) + deep / width
                    };
                    let left = unsafe {
                        cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::A, fragment.m, fragment.n, fragment.k, layout)
                    };
                    cmma::load(&left, &shared_a.slice(from as usize, shared_a.len()), stride_a);
                    #[unroll]
                    for j in 0..count_n {
                        let sum = sums.index(comptime!(i * count_n + j));
                        cmma::execute::<F, F, f32, f32>(&left, right.index(j), sum, sum);
                    }
                }
            }
        }
        if comptime!(tiles.stages == 1) {
            sync_cube();
        }
        if step < span.steps {
            let stage = step % comptime!(tiles.stages as u32);
            put::<F, N>(&held.a, &mut shared_a, stage * comptime!(stage_a as u32), tile_a, vector);
            let base_b = stage * comptime!(stage_b as u32);
            put_b::<G, F, N>(&b, &held, &mut shared_b, base_b, step, &span, plan);
        }
        sync_cube();
        step += 1;
    }

    if comptime!(plan.writes == Writes::Scratch) {
        write_through_scratch::<O, V>(&sums, out, &span, first_m, first_n, alpha, plan);
    } else {
        write_lanes::<O, V>(&sums, out, &span, first_m, first_n, plan);
    }
}

/// Writes the results of a plane through shared memory, a strip of fragments at a time: a thread can't access its part of a fragment.
#[cube]
fn write_through_scratch<O: Float, V: Size>(
    sums: &Sequence<cmma::Matrix<f32>>,
    out: &mut Array<Vector<O, V>>,
    span: &Span,
    first_m: u32,
    first_n: u32,
    alpha: f32,
    #[comptime] plan: TilePlan,
) {
    let tiles = comptime!(plan.tiles);
    let fragment = comptime!(tiles.fragment);
    let (count_m, count_n) = comptime!((tiles.fragments().m, tiles.fragments().n));
    let sizes = span.sizes;
    let strip = comptime!(tiles.strip());
    let strip_width = comptime!(strip * fragment.n);
    let strip_size = comptime!(strip_width * fragment.m);
    let mut scratch = SharedMemory::<f32>::new_aligned(comptime!(tiles.planes_m * tiles.planes_n * strip_size), 32usize);
    let own = PLANE_POS * comptime!(strip_size as u32);
    let out_vector = comptime!(plan.out_vector);
    let offset = CUBE_POS_Y * sizes.m * sizes.n;
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for s in 0..comptime!(count_n.div_ceil(strip)) {
            #[unroll]
            for j in 0..strip {
                if comptime!(s * strip + j < count_n) {
                    let from = own + comptime!((j * fragment.n) as u32);
                    cmma::store(
                        &mut scratch.slice_mut(from as usize, scratch.len()),
                        sums.index(comptime!(i * count_n + s * strip + j)),
                        comptime!(strip_width as u32),
                        cmma::MatrixLayout::RowMajor,
                    );
                }
            }
            sync_plane();
            #[unroll]
            for step in 0..comptime!((strip_size / out_vector).div_ceil(PLANE)) {
                let at = UNIT_POS_PLANE + comptime!((step * PLANE) as u32);
                let r = at / comptime!((strip_width / out_vector) as u32);
                let c = at % comptime!((strip_width / out_vector) as u32) * comptime!(out_vector as u32);
                let to_row = span.row + first_m + comptime!((i * fragment.m) as u32) + r;
                let to_column = span.column + first_n + comptime!((s * strip_width) as u32) + c;
                let mut inside = at < comptime!((strip_size / out_vector) as u32);
                if comptime!((s + 1) * strip > count_n) {
                    inside = inside && c < comptime!(((count_n - s * strip) * fragment.n) as u32);
                }
                if comptime!(plan.ragged.m) {
                    inside = inside && to_row < sizes.m;
                }
                if comptime!(plan.ragged.n) {
                    inside = inside && to_column < sizes.n;
                }
                if inside {
                    let mut value = Vector::<f32, V>::new(0.0f32);
                    #[unroll]
                    for e in 0..out_vector {
                        value[e] = scratch[(own + r * comptime!(strip_width as u32) + c + e as u32) as usize] * alpha;
                    }
                    let to = (offset + to_row * sizes.n + to_column) / comptime!(out_vector as u32);
                    out[to as usize] = Vector::<O, V>::cast_from(value);
                }
            }
            sync_plane();
        }
    }
}

/// Writes the results of a plane as its lanes hold them. Fragments are whole.
#[cube]
fn write_lanes<O: Float, V: Size>(
    sums: &Sequence<cmma::Matrix<f32>>,
    out: &mut Array<Vector<O, V>>,
    span: &Span,
    first_m: u32,
    first_n: u32,
    #[comptime] plan: TilePlan,
) {
    let tiles = comptime!(plan.tiles);
    let fragment = comptime!(tiles.fragment);
    let (count_m, count_n) = comptime!((tiles.fragments().m, tiles.fragments().n));
    let sizes = span.sizes;
    let stride = kept(sizes.n);
    let first = kept(CUBE_POS_Y * sizes.m * stride);
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for j in 0..count_n {
            let row = span.row + first_m + comptime!((i * fragment.m) as u32);
            let column = span.column + first_n + comptime!((j * fragment.n) as u32);
            let mut inside = true;
            if comptime!(plan.ragged.m) {
                inside = row < sizes.m;
            }
            if comptime!(plan.ragged.n) {
                inside = inside && column < stride;
            }
            if inside {
                let to = first + row * stride + column;
                let sum = sums.index(comptime!(i * count_n + j));
                let cast = comptime!(plan.writes == Writes::Lanes { cast: true });
                write_fragment::<O, V>(out, sum, to, stride, cast);
            }
        }
    }
}
