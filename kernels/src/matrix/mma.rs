//! The product on matrix units whose registers a kernel may see: those of NVIDIA, 16 × 8 × 16.
//!
//! Operands come from shared memory by `ldmatrix`, which reads four 8 × 8 matrices at a time; results leave straight from
//! registers. Source: the PTX manual, "Warp-level matrix instructions".

use cubecl::prelude::*;

use super::tile::{TilePlan, fetch_step, put, span};

/// The shape of the instruction.
pub(super) const M: usize = 16;
/// Columns of the instruction.
pub(super) const N: usize = 8;
/// Depth of the instruction.
pub(super) const K: usize = 16;
/// Elements of 16 bits that a row of an 8 × 8 matrix has; operands are read in vectors of that size.
pub(super) const ROW: usize = 8;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, G: Float, X: Float, O: Float, S: Size, V: Size>(
    a: &Array<Vector<F, S>>,
    b: &Array<Vector<G, S>>,
    more_a: &Array<Vector<F, S>>,
    more_b: &Array<Vector<X, S>>,
    out: &mut Array<Vector<O, V>>,
    m: u32,
    n: u32,
    k: u32,
    more_k: u32,
    part: u32,
    alpha: f32,
    #[comptime] plan: TilePlan,
    #[define(F)] _dtype: StorageType,
    #[define(G)] _dtype_b: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tiles = comptime!(plan.tiles);
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let vector = comptime!(plan.vector);
    let (stride_a, stride_b) = comptime!((tile_a.stride(vector) as u32, tile_b.stride(vector) as u32));
    let (stage_a, stage_b) = comptime!((tile_a.rows * tile_a.stride(vector), tile_b.rows * tile_b.stride(vector)));
    let mut shared_a = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_a * tiles.stages), 16usize);
    let mut shared_b = SharedMemory::<Vector<F, S>>::new_aligned(comptime!(stage_b * tiles.stages), 16usize);
    let mut held_a = Array::<Vector<F, S>>::new(comptime!(tile_a.held()));
    let mut held_b = Array::<Vector<F, S>>::new(comptime!(tile_b.held()));
    let span = span(m, n, k, more_k, part, plan);

    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);
    let (count_m, count_n) = comptime!((tiles.m / tiles.planes_m / M, tiles.n / tiles.planes_n / N));
    let mut sums = Sequence::<Array<Vector<f32, NC>>>::new();
    #[unroll]
    for _ in 0..comptime!(count_m * count_n) {
        let mut sum = Array::<Vector<f32, NC>>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            sum[i] = Vector::<f32, NC>::new(0.0f32);
        }
        sums.push(sum);
    }
    let first_m = PLANE_POS / comptime!(tiles.planes_n as u32) * comptime!((count_m * M) as u32);
    let first_n = PLANE_POS % comptime!(tiles.planes_n as u32) * comptime!((count_n * N) as u32);
    // A lane names a row of one of the four matrices: the second is eight along the first of the two axes, the third along the other.
    let lane = UNIT_POS_PLANE % 8;
    let odd = UNIT_POS_PLANE / 8 % 2 * 8;
    let high = UNIT_POS_PLANE / 16 * 8;

    let mut step = 0u32;
    while step <= span.steps {
        // Tile `step` is on its way to registers while tile `step - 1` is multiplied.
        if step < span.steps {
            fetch_step::<F, G, X, S>(a, b, more_a, more_b, &mut held_a, &mut held_b, step, m, n, k, more_k, &span, plan);
        }
        if step > 0 {
            let stage = (step - 1) % comptime!(tiles.stages as u32);
            let base_a = stage * comptime!(stage_a as u32);
            let base_b = stage * comptime!(stage_b as u32);
            #[unroll]
            for depth in 0..comptime!(tiles.k / K) {
                let deep = comptime!((depth * K) as u32);
                let mut right = Sequence::<Array<Vector<F, NB>>>::new();
                #[unroll]
                for j in 0..comptime!(count_n / 2) {
                    let at = first_n + comptime!((j * 2 * N) as u32);
                    let from = if comptime!(plan.transposed_b) {
                        base_b + (at + high + lane) * stride_b + (deep + odd) / comptime!(ROW as u32)
                    } else {
                        base_b + (deep + odd + lane) * stride_b + (at + high) / comptime!(ROW as u32)
                    };
                    let four = definition.load_matrix::<_, NB>(
                        &shared_b.slice(from as usize, from as usize + 1),
                        cmma::MatrixIdent::B,
                        4usize,
                        comptime!(!plan.transposed_b),
                    );
                    #[unroll]
                    for half in 0..2usize {
                        let mut two = Array::<Vector<F, NB>>::new(2usize);
                        two[0] = four[comptime!(half * 2)];
                        two[1] = four[comptime!(half * 2 + 1)];
                        right.push(two);
                    }
                }
                #[unroll]
                for i in 0..count_m {
                    let at = first_m + comptime!((i * M) as u32);
                    let from = if comptime!(plan.transposed_a) {
                        base_a + (deep + high + lane) * stride_a + (at + odd) / comptime!(ROW as u32)
                    } else {
                        base_a + (at + odd + lane) * stride_a + (deep + high) / comptime!(ROW as u32)
                    };
                    let left = definition.load_matrix::<_, NA>(
                        &shared_a.slice(from as usize, from as usize + 1),
                        cmma::MatrixIdent::A,
                        4usize,
                        plan.transposed_a,
                    );
                    #[unroll]
                    for j in 0..count_n {
                        let sum = sums.index_mut(comptime!(i * count_n + j));
                        definition.execute_inplace(&left, right.index(j), sum);
                    }
                }
            }
        }
        if comptime!(tiles.stages == 1) {
            sync_cube();
        }
        if step < span.steps {
            let stage = step % comptime!(tiles.stages as u32);
            put::<F, S>(&held_a, &mut shared_a, stage * comptime!(stage_a as u32), tile_a, vector);
            put::<F, S>(&held_b, &mut shared_b, stage * comptime!(stage_b as u32), tile_b, vector);
        }
        sync_cube();
        step += 1;
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
