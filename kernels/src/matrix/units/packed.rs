//! The product with a packed `B`: each of its tiles is dequantised into shared memory, where an operation reads it; `A` stays where it is.

use cubecl::prelude::*;

use super::super::packed::{EIGHT, Words, fetch_packed, held, kept, put_packed, weights};
use super::super::tile::{Sizes, Tile, fetch, put};
use super::dense::{corner, left_part, write_tile};
use super::marks::{Part, begin_shared, multiply_shared};
use super::plan::{UNIT_STEP, UnitPlan};

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn product_kernel<F: Float, X: Float, O: Float, N: Size>(
    a: &Array<F>,
    b: Words,
    more_a: &Array<F>,
    more_b: &Array<Vector<X, N>>,
    out: &mut Array<O>,
    sizes: Sizes,
    alpha: f32,
    #[comptime] plan: UnitPlan,
    #[define(F)] _dtype: StorageType,
    #[define(X)] _dtype_more: StorageType,
    #[define(O)] _dtype_out: StorageType,
) {
    let tile = comptime!(plan.tile_b());
    let (width, eight, tile_k) = comptime!((plan.vector as u32, EIGHT as u32, UNIT_STEP as u32));
    let mut shared = SharedMemory::<Vector<F, N>>::new_aligned(comptime!(tile.rows * tile.stride(plan.vector)), 32usize);
    let weights = weights(b, false);
    let code = comptime!(weights.code);
    let mut own = Array::<Vector<F, N>>::new(comptime!(held(tile, plan.vector, code).max(tile.held())));
    let corner = corner(sizes, plan);
    begin_shared::<F, Vector<F, N>>(a, &shared, plan);
    let right = Part {
        first: 0u32.runtime(),
        stride: comptime!(plan.stride_b() as u32).runtime(),
        lines: comptime!(plan.tiles.n as u32).runtime(),
    };

    let end = kept(sizes.k);
    let mut depth = 0u32;
    while depth < end {
        if comptime!(plan.transposed_b) {
            let (row, column) = (corner.column, depth / eight);
            fetch_packed::<F, N>(&weights, &mut own, row, column, sizes.n, sizes.k / eight, tile, plan.vector);
        } else {
            let (row, column) = (depth, corner.column / eight);
            fetch_packed::<F, N>(&weights, &mut own, row, column, end, sizes.n / eight, tile, plan.vector);
        }
        // The operation before has read the last tile.
        sync_cube();
        put_packed::<F, N>(&own, &mut shared, 0u32, tile, plan.vector, code);
        sync_cube();
        let left = left_part(sizes, corner, depth, end, false);
        multiply_shared::<F, Vector<F, N>>(a, &shared, left, right, kept(min(end - depth, tile_k)), plan);
        depth += tile_k;
    }
    if comptime!(plan.more) {
        let end = kept(sizes.more_k);
        let mut depth = 0u32;
        while depth < end {
            let tile = comptime!(Tile { ragged_rows: true, ragged_vectors: true, ..tile });
            if comptime!(plan.transposed_b) {
                fetch::<X, F, N>(more_b, &mut own, corner.column, depth / width, sizes.n, end / width, tile);
            } else {
                fetch::<X, F, N>(more_b, &mut own, depth, corner.column / width, end, sizes.n / width, tile);
            }
            sync_cube();
            put::<F, N>(&own, &mut shared, 0u32, tile, plan.vector);
            sync_cube();
            let left = left_part(sizes, corner, depth, end, false);
            multiply_shared::<F, Vector<F, N>>(more_a, &shared, left, right, kept(min(end - depth, tile_k)), plan);
            depth += tile_k;
        }
    }
    write_tile::<O>(out, sizes, corner, alpha);
}
