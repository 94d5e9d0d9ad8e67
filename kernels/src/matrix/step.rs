//! The tiles of a step of the product on fragments: from memory to registers, and on to shared memory.

use cubecl::prelude::*;

use super::gather::{fetch_gathered, gathers};
use super::packed::{EIGHT, Source, SourceExpand, fetch_packed, held, put_packed};
use super::tile::{Span, Tile, TilePlan, fetch, put};

/// A thread's vectors of both tiles of a step.
#[derive(CubeType)]
pub(super) struct Held<F: Float, N: Size> {
    pub a: Array<Vector<F, N>>,
    pub b: Array<Vector<F, N>>,
}

/// Registers for a thread's vectors of a step.
#[cube]
pub(super) fn hold<G: Float, F: Float, N: Size>(b: &Source<Vector<G, N>>, #[comptime] plan: TilePlan) -> Held<F, N> {
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let a = Array::<Vector<F, N>>::new(comptime!(tile_a.held()));
    let b = match b {
        Source::Dense(_) => Array::<Vector<F, N>>::new(comptime!(tile_b.held())),
        Source::Packed(packed) => {
            let count = comptime!(held(tile_b, plan.vector, packed.code).max(tile_b.held()));
            Array::<Vector<F, N>>::new(count)
        }
    };
    Held::<F, N> { a, b }
}

/// Reads the tiles of a step into registers; steps past those of the first pair of operands are of the second.
#[cube]
pub(super) fn fetch_step<F: Float, G: Float, X: Float, N: Size>(
    a: &Array<Vector<F, N>>,
    b: &Source<Vector<G, N>>,
    more_a: &Array<Vector<F, N>>,
    more_b: &Array<Vector<X, N>>,
    held: &mut Held<F, N>,
    step: u32,
    span: &Span,
    #[comptime] plan: TilePlan,
) {
    let tile_k = comptime!(plan.tiles.k as u32);
    let width = comptime!(plan.vector as u32);
    let (tile_a, tile_b) = comptime!((plan.tile_a(), plan.tile_b()));
    let sizes = span.sizes;
    if step < span.own_steps {
        let depth = span.begin + step * tile_k;
        if comptime!(plan.transposed_a) {
            fetch::<F, F, N>(a, &mut held.a, depth, span.row / width, span.end, sizes.m / width, tile_a);
        } else {
            fetch::<F, F, N>(a, &mut held.a, span.row, depth / width, sizes.m, sizes.k / width, tile_a);
        }
        match b {
            Source::Dense(b) => {
                if comptime!(plan.transposed_b) {
                    fetch::<G, F, N>(b, &mut held.b, span.column, depth / width, sizes.n, sizes.k / width, tile_b);
                } else {
                    fetch::<G, F, N>(b, &mut held.b, depth, span.column / width, span.end, sizes.n / width, tile_b);
                }
            }
            Source::Packed(b) => {
                let eight = comptime!(EIGHT as u32);
                let (row, column, rows, columns) = if comptime!(plan.transposed_b) {
                    (span.column, depth / eight, sizes.n, sizes.k / eight)
                } else {
                    (depth, span.column / eight, span.end, sizes.n / eight)
                };
                if comptime!(gathers(b.code)) {
                    fetch_gathered::<F, N>(b, &mut held.b, row, column, rows, columns, tile_b, plan.vector);
                } else {
                    fetch_packed::<F, N>(b, &mut held.b, row, column, rows, columns, tile_b, plan.vector);
                }
            }
        }
    } else if comptime!(plan.more) {
        let depth = (step - span.own_steps) * tile_k;
        let tall_a = comptime!(Tile { ragged_vectors: true, ..tile_a });
        fetch::<F, F, N>(more_a, &mut held.a, span.row, depth / width, sizes.m, sizes.more_k / width, tall_a);
        if comptime!(plan.transposed_b) {
            let tall_b = comptime!(Tile { ragged_vectors: true, ..tile_b });
            fetch::<X, F, N>(more_b, &mut held.b, span.column, depth / width, sizes.n, sizes.more_k / width, tall_b);
        } else {
            let tall_b = comptime!(Tile { ragged_rows: true, ..tile_b });
            fetch::<X, F, N>(more_b, &mut held.b, depth, span.column / width, sizes.more_k, sizes.n / width, tall_b);
        }
    }
}

/// Writes a thread's vectors of the tile of `B` of a step to shared memory.
#[cube]
pub(super) fn put_b<G: Float, F: Float, N: Size>(
    b: &Source<Vector<G, N>>,
    held: &Held<F, N>,
    shared: &mut SharedMemory<Vector<F, N>>,
    base: u32,
    step: u32,
    span: &Span,
    #[comptime] plan: TilePlan,
) {
    let tile = comptime!(plan.tile_b());
    match b {
        Source::Dense(_) => put::<F, N>(&held.b, shared, base, tile, plan.vector),
        Source::Packed(packed) => {
            let code = comptime!(packed.code);
            if comptime!(plan.more) {
                // The second pair is dense.
                if step < span.own_steps {
                    put_packed::<F, N>(&held.b, shared, base, tile, plan.vector, code);
                } else {
                    put::<F, N>(&held.b, shared, base, tile, plan.vector);
                }
            } else {
                put_packed::<F, N>(&held.b, shared, base, tile, plan.vector, code);
            }
        }
    }
}
