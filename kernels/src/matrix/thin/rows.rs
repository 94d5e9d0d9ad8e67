//! `x · Aᵀ` of many rows: each plane of a cube has the same rows, and its own blocks of the sum.

use cubecl::prelude::*;

use super::super::plan::PLANE;
use super::super::registers::{K, M, N, ROW, zeros};
use super::fragments::{pair, sum_of_planes};
use super::plan::{BLOCK, STEPS, ThinTiles};

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowsPlan {
    /// Columns of the result.
    pub thin: usize,
    /// The thin operand is stored as `[n, k]`.
    pub transposed: bool,
    /// Another matrix is cast meanwhile.
    pub casts: bool,
    pub tiles: ThinTiles,
}

impl RowsPlan {
    /// Fragments side by side. A thread's column in fragment `j` is `g · columns + j`, so that it can read all in one vector.
    fn columns(&self) -> usize {
        self.thin / N
    }

    /// Rows of a cube.
    fn rows(&self) -> usize {
        self.tiles.fragments * M
    }
}

/// The extents as the kernel takes them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct RowSizes {
    pub m: u32,
    pub k: u32,
    /// Vectors of the matrix that is cast.
    pub cast: u32,
}

/// The thin operand's eight terms from `from` on, of each of this thread's columns, the first of which is `column`.
#[cube]
fn read_thin<F: Float, G: Float, W: Size>(
    thin: &Array<Vector<G, W>>,
    column: u32,
    from: u32,
    k: u32,
    #[comptime] plan: RowsPlan,
) -> Array<F> {
    let count = comptime!(plan.columns());
    let size = thin.vector_size().comptime();
    let width = comptime!(size as u32);
    let mut terms = Array::<F>::new(comptime!(count * ROW));
    if comptime!(plan.transposed) {
        #[unroll]
        for j in 0..count {
            let first = ((column + comptime!(j as u32)) * k + from) / width;
            #[unroll]
            for part in 0..comptime!(ROW / size) {
                let vector = Vector::<F, W>::cast_from(thin[(first + comptime!(part as u32)) as usize]);
                #[unroll]
                for e in 0..size {
                    terms[comptime!(j * ROW + part * size + e)] = vector[e];
                }
            }
        }
    } else {
        #[unroll]
        for term in 0..ROW {
            let first = ((from + comptime!(term as u32)) * comptime!(plan.thin as u32) + column) / width;
            #[unroll]
            for part in 0..comptime!(count / size) {
                let vector = Vector::<F, W>::cast_from(thin[(first + comptime!(part as u32)) as usize]);
                #[unroll]
                for e in 0..size {
                    terms[comptime!((part * size + e) * ROW + term)] = vector[e];
                }
            }
        }
    }
    terms
}

#[cube(launch_unchecked)]
pub(super) fn row_kernel<F: Float, G: Float, O: Float, S: Size, W: Size, C: Size>(
    wide: &Array<Vector<F, S>>,
    thin: &Array<Vector<G, W>>,
    out: &mut Array<O>,
    other: &Array<Vector<f32, C>>,
    copy: &mut Array<Vector<F, C>>,
    sizes: RowSizes,
    alpha: f32,
    #[comptime] plan: RowsPlan,
    #[define(F)] _dtype: StorageType,
    #[define(G)] _dtype_thin: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let (m, k) = (sizes.m, sizes.k);
    let definition = cmma::MmaDefinition::<F, F, f32>::new(M, N, K);
    let size!(NA) = definition.vector_size(cmma::MatrixIdent::A);
    let size!(NB) = definition.vector_size(cmma::MatrixIdent::B);
    let size!(NC) = definition.vector_size(cmma::MatrixIdent::Accumulator);
    let (fragments, columns) = comptime!((plan.tiles.fragments, plan.columns()));
    let mut sums = zeros::<NC>(comptime!(fragments * columns));
    let (g, t) = (UNIT_POS_PLANE / 4, UNIT_POS_PLANE % 4);
    let first_row = CUBE_POS_X * comptime!(plan.rows() as u32);
    let stride = k / comptime!(ROW as u32);
    let column = g * comptime!(columns as u32);

    let blocks = k / comptime!(BLOCK as u32);
    let mut block = PLANE_POS;
    while block < blocks {
        // Two vectors of each row, 32 elements apart: together the four threads of a row read its block.
        let mut held = Array::<Vector<F, S>>::new(comptime!(fragments * 4));
        #[unroll]
        for half in 0..comptime!(fragments * 2) {
            let row = min(first_row + comptime!((half * 8) as u32) + g, m - 1);
            let from = row * stride + block * comptime!((BLOCK / ROW) as u32) + t;
            held[comptime!(half * 2)] = wide[from as usize];
            held[comptime!(half * 2 + 1)] = wide[(from + 4) as usize];
        }
        #[unroll]
        for part in 0..2usize {
            let from = block * comptime!(BLOCK as u32) + comptime!((part * 4 * ROW) as u32) + t * comptime!(ROW as u32);
            let terms = read_thin::<F, G, W>(thin, column, from, k, plan);
            #[unroll]
            for step in 0..STEPS {
                let mut right = Sequence::<Array<Vector<F, NB>>>::new();
                #[unroll]
                for j in 0..columns {
                    let mut two = Array::<Vector<F, NB>>::new(2usize);
                    #[unroll]
                    for e in 0..2usize {
                        let at = comptime!(j * ROW + step * 4 + e * 2);
                        two[e] = pair::<F, NB>(terms[at], terms[comptime!(at + 1)]);
                    }
                    right.push(two);
                }
                #[unroll]
                for i in 0..fragments {
                    let mut left = Array::<Vector<F, NA>>::new(4usize);
                    #[unroll]
                    for e in 0..4usize {
                        // Rows `g` and `g + 8`, then the same of the upper terms.
                        let vector = held[comptime!((i * 2 + e % 2) * 2 + part)];
                        let at = comptime!(step * 4 + e / 2 * 2);
                        left[e] = pair::<F, NA>(vector[at], vector[comptime!(at + 1)]);
                    }
                    #[unroll]
                    for j in 0..columns {
                        definition.execute_inplace(&left, right.index(j), sums.index_mut(comptime!(i * columns + j)));
                    }
                }
            }
        }
        block += comptime!(plan.tiles.planes as u32);
    }

    // The planes' sums, in their order. Rows begin in different banks.
    let stride = comptime!(plan.thin + 1);
    let all = comptime!(plan.rows() * stride);
    let mut shared = SharedMemory::<f32>::new(comptime!(plan.tiles.planes * all));
    let own = PLANE_POS * comptime!(all as u32);
    #[unroll]
    for i in 0..fragments {
        #[unroll]
        for j in 0..columns {
            let sum = sums.index(comptime!(i * columns + j));
            #[unroll]
            for half in 0..2usize {
                let row = comptime!((i * M + half * 8) as u32) + g;
                let two = sum[half];
                #[unroll]
                for e in 0..2usize {
                    let column = (t * 2 + comptime!(e as u32)) * comptime!(columns as u32) + comptime!(j as u32);
                    shared[(own + row * comptime!(stride as u32) + column) as usize] = two[e];
                }
            }
        }
    }
    let threads = comptime!(plan.tiles.planes * PLANE);
    if comptime!(plan.casts) {
        let mut at = CUBE_POS_X * comptime!(threads as u32) + UNIT_POS;
        while at < sizes.cast {
            copy[at as usize] = Vector::<F, C>::cast_from(other[at as usize]);
            at += CUBE_COUNT_X * comptime!(threads as u32);
        }
    }
    sync_cube();
    let count = comptime!(plan.rows() * plan.thin);
    #[unroll]
    for i in 0..comptime!(count.div_ceil(threads)) {
        let at = UNIT_POS + comptime!((i * threads) as u32);
        let (row, column) = (at / comptime!(plan.thin as u32), at % comptime!(plan.thin as u32));
        if at < comptime!(count as u32) && first_row + row < m {
            let from = row * comptime!(stride as u32) + column;
            let sum = sum_of_planes(&shared, from, plan.tiles.planes, all);
            out[((first_row + row) * comptime!(plan.thin as u32) + column) as usize] = O::cast_from(sum * alpha);
        }
    }
}
