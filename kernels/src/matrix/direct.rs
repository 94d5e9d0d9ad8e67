//! The product on matrix units whose fragments are loaded straight from the operands: no shared memory, and no barrier.
//!
//! Each plane computes a tile of its own. Tiles at the end of the result are moved back so that they end with it; elements that two tiles
//! share are the same sums in the same order.

use cubecl::prelude::*;

use super::lanes::{write_fragment, zeros};
use super::packed::kept;
use super::plan::{Fragment, FragmentGrid, PLANE};
use super::tile::{Sizes, tile_of_cube};

/// The tile of a plane, and the planes of a cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DirectTiles {
    /// Rows of a plane's tile of the result.
    pub m: usize,
    /// Its columns.
    pub n: usize,
    /// Planes along the rows.
    pub planes_m: usize,
    /// Planes along the columns.
    pub planes_n: usize,
    /// Shape of a fragment.
    pub fragment: Fragment,
}

impl DirectTiles {
    /// Threads of a cube.
    pub(super) fn threads(&self) -> usize {
        self.planes_m * self.planes_n * PLANE
    }

    /// Cubes of a result.
    pub(super) fn cubes(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m * self.planes_m) * n.div_ceil(self.n * self.planes_n)
    }

    /// A plane's fragments of the result.
    pub(super) fn fragments(&self) -> FragmentGrid {
        FragmentGrid { m: self.m / self.fragment.m, n: self.n / self.fragment.n }
    }
}

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirectPlan {
    pub tiles: DirectTiles,
    /// `A` is stored as `[k, m]`.
    pub transposed_a: bool,
    /// `B` is stored as `[n, k]`.
    pub transposed_b: bool,
    /// There is a second pair of operands.
    pub more: bool,
    /// Rows of tiles that cubes take together.
    pub band: usize,
    /// Whether the result has another dtype than the sums.
    pub cast: bool,
}

/// Where a plane's tile begins, and the elements from one row of each operand to the next.
#[derive(CubeType, Clone, Copy)]
struct Place {
    row: u32,
    column: u32,
    stride_a: u32,
    stride_b: u32,
}

/// Adds the products of the fragments at `depth`.
#[cube]
fn add_fragments<F: Float>(
    a: &Array<F>,
    b: &Array<F>,
    sums: &Sequence<cmma::Matrix<f32>>,
    place: &Place,
    depth: u32,
    #[comptime] transposed_a: bool,
    #[comptime] plan: DirectPlan,
) {
    let fragment = comptime!(plan.tiles.fragment);
    let (count_m, count_n) = comptime!((plan.tiles.fragments().m, plan.tiles.fragments().n));
    let mut right = Sequence::<cmma::Matrix<F>>::new();
    #[unroll]
    for j in 0..count_n {
        let at = place.column + comptime!((j * fragment.n) as u32);
        let layout = if comptime!(plan.transposed_b) { cmma::MatrixLayout::ColMajor } else { cmma::MatrixLayout::RowMajor };
        let from = if comptime!(plan.transposed_b) { at * place.stride_b + depth } else { depth * place.stride_b + at };
        let matrix =
            unsafe { cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::B, fragment.m, fragment.n, fragment.k, layout) };
        cmma::load(&matrix, &b.slice(from as usize, from as usize + 1), place.stride_b);
        right.push(matrix);
    }
    #[unroll]
    for i in 0..count_m {
        let at = place.row + comptime!((i * fragment.m) as u32);
        let layout = if comptime!(transposed_a) { cmma::MatrixLayout::ColMajor } else { cmma::MatrixLayout::RowMajor };
        let from = if comptime!(transposed_a) { depth * place.stride_a + at } else { at * place.stride_a + depth };
        let left =
            unsafe { cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::A, fragment.m, fragment.n, fragment.k, layout) };
        cmma::load(&left, &a.slice(from as usize, from as usize + 1), place.stride_a);
        #[unroll]
        for j in 0..count_n {
            let sum = sums.index(comptime!(i * count_n + j));
            cmma::execute::<F, F, f32, f32>(&left, right.index(j), sum, sum);
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, O: Float, V: Size>(
    a: &Array<F>,
    b: &Array<F>,
    more_a: &Array<F>,
    more_b: &Array<F>,
    out: &mut Array<Vector<O, V>>,
    sizes: Sizes,
    #[comptime] plan: DirectPlan,
    #[define(F)] _dtype: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tiles = comptime!(plan.tiles);
    let fragment = comptime!(tiles.fragment);
    let (count_m, count_n) = comptime!((tiles.fragments().m, tiles.fragments().n));
    let (tile_m, tile_n) = comptime!((tiles.m as u32, tiles.n as u32));
    let (cube_m, cube_n) = comptime!(((tiles.m * tiles.planes_m) as u32, (tiles.n * tiles.planes_n) as u32));
    let (at_m, at_n) = tile_of_cube(sizes.m.div_ceil(cube_m), sizes.n.div_ceil(cube_n), plan.band);
    let row = at_m * cube_m + PLANE_POS / comptime!(tiles.planes_n as u32) * tile_m;
    let column = at_n * cube_n + PLANE_POS % comptime!(tiles.planes_n as u32) * tile_n;
    let row = min(row, sizes.m - tile_m);
    let column = min(column, sizes.n - tile_n);

    let sums = zeros(fragment, comptime!(count_m * count_n));
    let stride_a = if comptime!(plan.transposed_a) { sizes.m } else { sizes.k };
    let stride_b = if comptime!(plan.transposed_b) { sizes.k } else { sizes.n };
    let place = Place { row, column, stride_a: kept(stride_a), stride_b: kept(stride_b) };
    let end = kept(min(CUBE_POS_Y * sizes.part + sizes.part, sizes.k));
    let mut depth = CUBE_POS_Y * sizes.part;
    while depth < end {
        add_fragments::<F>(a, b, &sums, &place, depth, plan.transposed_a, plan);
        depth += comptime!(fragment.k as u32);
    }
    if comptime!(plan.more) {
        let stride_b = if comptime!(plan.transposed_b) { sizes.more_k } else { sizes.n };
        let place = Place { row, column, stride_a: kept(sizes.more_k), stride_b: kept(stride_b) };
        let mut depth = 0u32;
        while depth < sizes.more_k {
            add_fragments::<F>(more_a, more_b, &sums, &place, depth, false, plan);
            depth += comptime!(fragment.k as u32);
        }
    }
    let stride = kept(sizes.n);
    let first = kept((CUBE_POS_Y * sizes.m + row) * stride + column);
    #[unroll]
    for i in 0..count_m {
        #[unroll]
        for j in 0..count_n {
            let to = first + comptime!((i * fragment.m) as u32) * stride + comptime!((j * fragment.n) as u32);
            let sum = sums.index(comptime!(i * count_n + j));
            write_fragment::<O, V>(out, sum, to, stride, plan.cast);
        }
    }
}
