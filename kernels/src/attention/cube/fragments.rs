//! The forward on matrix units.

use cubecl::prelude::*;

use super::scores::{HIDDEN, Head, Sight, Sizes, all_seen, key_range, next_keys, query_block, score, sees};
use crate::matrix::{Fragment, PADDING, PLANE};

/// How far a row's maximum may grow before the sums are rescaled: weights stay below e⁸, well within the range of f16.
const SLACK: f32 = 8.0;

/// The tiles of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AttentionTiles {
    pub head_dim: usize,
    /// Columns of a tile of scores.
    pub columns: usize,
    /// Planes of a cube; each owns the rows of one fragment.
    pub planes: usize,
    pub fragment: Fragment,
    /// Elements of a vector.
    pub vector: usize,
}

impl AttentionTiles {
    pub(super) fn rows(&self) -> usize {
        self.planes * self.fragment.m
    }

    pub(super) fn threads(&self) -> usize {
        self.planes * PLANE
    }

    /// Threads that share a row.
    pub(super) fn sharing(&self) -> usize {
        PLANE / self.fragment.m
    }

    /// Elements from one row of a tile to the next in shared memory.
    pub(super) fn stride(&self) -> usize {
        self.head_dim + PADDING
    }

    /// Elements from one row of a plane's scores to the next.
    pub(super) fn score_stride(&self) -> usize {
        self.columns.max(self.fragment.n) + 4
    }

    /// Elements from one row of a plane's weights to the next.
    pub(super) fn weight_stride(&self) -> usize {
        self.columns + PADDING
    }

    /// Bytes of shared memory with `score_buffers` buffers of scores.
    pub(super) fn shared_bytes(&self, element: usize, score_buffers: usize) -> usize {
        let tile = self.columns.max(self.rows()) * self.stride() * element;
        let scores = self.rows() * self.score_stride() * 4;
        2 * tile + score_buffers * scores + self.rows() * self.weight_stride() * element + self.rows() * 4
    }

    /// Vectors that a thread holds of a tile of `rows`.
    fn held(&self, rows: usize) -> usize {
        (rows * self.head_dim / self.vector).div_ceil(self.threads())
    }
}

/// Reads positions `first…` of a head into registers, with zeros beyond the last.
#[cube]
pub(super) fn fetch<F: Float, N: Size>(
    source: &Array<Vector<F, N>>,
    head: &Head,
    first: u32,
    #[comptime] rows: usize,
    #[comptime] tiles: AttentionTiles,
) -> Array<Vector<F, N>> {
    let vectors = comptime!((tiles.head_dim / tiles.vector) as u32);
    let mut held = Array::<Vector<F, N>>::new(comptime!(tiles.held(rows)));
    #[unroll]
    for i in 0..comptime!(tiles.held(rows)) {
        let at = UNIT_POS + comptime!((i * tiles.threads()) as u32);
        let r = at / vectors;
        held[i] = Vector::<F, N>::new(F::new(0.0));
        if r < comptime!(rows as u32) && first + r < head.length {
            held[i] = source[(head.offset + (first + r) * head.stride + at % vectors) as usize];
        }
    }
    held
}

/// Writes what [`fetch`] read to shared memory.
#[cube]
pub(super) fn put_tile<F: Float, N: Size>(
    held: &Array<Vector<F, N>>,
    tile: &mut SharedMemory<Vector<F, N>>,
    #[comptime] rows: usize,
    #[comptime] tiles: AttentionTiles,
) {
    let vectors = comptime!((tiles.head_dim / tiles.vector) as u32);
    #[unroll]
    for i in 0..comptime!(tiles.held(rows)) {
        let at = UNIT_POS + comptime!((i * tiles.threads()) as u32);
        let r = at / vectors;
        if r < comptime!(rows as u32) {
            tile[(r * comptime!((tiles.stride() / tiles.vector) as u32) + at % vectors) as usize] = held[i];
        }
    }
}

/// Copies positions `first…` of a head to shared memory, with zeros beyond the last.
#[cube]
pub(super) fn load<F: Float, N: Size>(
    source: &Array<Vector<F, N>>,
    head: &Head,
    first: u32,
    tile: &mut SharedMemory<Vector<F, N>>,
    #[comptime] rows: usize,
    #[comptime] tiles: AttentionTiles,
) {
    let held = fetch::<F, N>(source, head, first, rows, tiles);
    put_tile::<F, N>(&held, tile, rows, tiles);
}

/// A fragment of the left operand from a tile in shared memory.
#[cube]
pub(super) fn left<F: Float, N: Size>(
    tile: &SharedMemory<Vector<F, N>>,
    from: u32,
    #[comptime] stride: usize,
    #[comptime] tiles: AttentionTiles,
) -> cmma::Matrix<F> {
    let f = comptime!(tiles.fragment);
    let matrix =
        unsafe { cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::A, f.m, f.n, f.k, cmma::MatrixLayout::RowMajor) };
    let at = from / comptime!(tiles.vector as u32);
    cmma::load(&matrix, &tile.slice(at as usize, tile.len()), comptime!(stride as u32));
    matrix
}

/// A fragment of the right operand from a tile in shared memory; `transposed` where it is stored as `[n, k]`.
#[cube]
pub(super) fn right<F: Float, N: Size>(
    tile: &SharedMemory<Vector<F, N>>,
    from: u32,
    #[comptime] transposed: bool,
    #[comptime] tiles: AttentionTiles,
) -> cmma::Matrix<F> {
    let f = comptime!(tiles.fragment);
    let layout = if comptime!(transposed) { cmma::MatrixLayout::ColMajor } else { cmma::MatrixLayout::RowMajor };
    let matrix = unsafe { cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::B, f.m, f.n, f.k, layout) };
    let at = from / comptime!(tiles.vector as u32);
    cmma::load(&matrix, &tile.slice(at as usize, tile.len()), comptime!(tiles.stride() as u32));
    matrix
}

/// A fragment of zeros.
#[cube]
pub(super) fn zeros(#[comptime] tiles: AttentionTiles) -> cmma::Matrix<f32> {
    let f = comptime!(tiles.fragment);
    let (ident, layout) = (cmma::MatrixIdent::Accumulator, cmma::MatrixLayout::Undefined);
    cmma::Matrix::<f32>::from_value(ident, f.m, f.n, f.k, layout, 0.0f32)
}

/// A plane's own rows, as fragments, from a tile that holds the rows of the cube.
#[cube]
pub(super) fn own_rows<F: Float, N: Size>(
    tile: &SharedMemory<Vector<F, N>>,
    #[comptime] tiles: AttentionTiles,
) -> Sequence<cmma::Matrix<F>> {
    let mut rows = Sequence::<cmma::Matrix<F>>::new();
    let first = PLANE_POS * comptime!((tiles.fragment.m * tiles.stride()) as u32);
    #[unroll]
    for i in 0..comptime!(tiles.head_dim / tiles.fragment.k) {
        rows.push(left::<F, N>(tile, first + comptime!((i * tiles.fragment.k) as u32), tiles.stride(), tiles));
    }
    rows
}

/// Writes the products of a plane's rows and the columns of a tile to the plane's part of `scores`.
#[cube]
pub(super) fn products<F: Float, N: Size>(
    rows: &Sequence<cmma::Matrix<F>>,
    tile: &SharedMemory<Vector<F, N>>,
    scores: &mut SharedMemory<f32>,
    #[comptime] tiles: AttentionTiles,
) {
    let f = comptime!(tiles.fragment);
    let own = PLANE_POS * comptime!((f.m * tiles.score_stride()) as u32);
    #[unroll]
    for j in 0..comptime!(tiles.columns / f.n) {
        let sum = zeros(tiles);
        #[unroll]
        for i in 0..comptime!(tiles.head_dim / f.k) {
            let from = comptime!((j * f.n * tiles.stride() + i * f.k) as u32).runtime();
            let column = right::<F, N>(tile, from, true, tiles);
            cmma::execute::<F, F, f32, f32>(rows.index(i), &column, &sum, &sum);
        }
        let to = own + comptime!((j * f.n) as u32);
        cmma::store(
            &mut scores.slice_mut(to as usize, scores.len()),
            &sum,
            comptime!(tiles.score_stride() as u32),
            cmma::MatrixLayout::RowMajor,
        );
    }
}

/// Adds the product of a plane's weights with a tile to its sums.
#[cube]
pub(super) fn accumulate<F: Float, N: Size>(
    weights: &SharedMemory<F>,
    tile: &SharedMemory<Vector<F, N>>,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] tiles: AttentionTiles,
) {
    let f = comptime!(tiles.fragment);
    let own = PLANE_POS * comptime!((f.m * tiles.weight_stride()) as u32);
    #[unroll]
    for i in 0..comptime!(tiles.columns / f.k) {
        let weight =
            unsafe { cmma::Matrix::<F>::uninitialized(cmma::MatrixIdent::A, f.m, f.n, f.k, cmma::MatrixLayout::RowMajor) };
        let from = own + comptime!((i * f.k) as u32);
        cmma::load(&weight, &weights.slice(from as usize, weights.len()), comptime!(tiles.weight_stride() as u32));
        #[unroll]
        for j in 0..comptime!(tiles.head_dim / f.n) {
            let from = comptime!((i * f.k * tiles.stride() + j * f.n) as u32).runtime();
            let row = right::<F, N>(tile, from, false, tiles);
            let sum = sums.index(j);
            cmma::execute::<F, F, f32, f32>(&weight, &row, sum, sum);
        }
    }
}

/// Writes a plane's sums, each row times its factor, to positions `first…` of a head; they pass through `scratch`.
#[cube]
pub(super) fn write_sums<F: Float>(
    sums: &Sequence<cmma::Matrix<f32>>,
    factors: &SharedMemory<f32>,
    scratch: &mut SharedMemory<f32>,
    out: &mut Array<F>,
    head: &Head,
    first: u32,
    #[comptime] tiles: AttentionTiles,
) {
    let f = comptime!(tiles.fragment);
    let own = PLANE_POS * comptime!((f.m * tiles.score_stride()) as u32);
    let own_row = PLANE_POS * comptime!(f.m as u32);
    #[unroll]
    for j in 0..comptime!(tiles.head_dim / f.n) {
        cmma::store(
            &mut scratch.slice_mut(own as usize, scratch.len()),
            sums.index(j),
            comptime!(tiles.score_stride() as u32),
            cmma::MatrixLayout::RowMajor,
        );
        sync_plane();
        #[unroll]
        for i in 0..comptime!(f.m * f.n / PLANE) {
            let at = UNIT_POS_PLANE + comptime!((i * PLANE) as u32);
            let r = at / comptime!(f.n as u32);
            let c = at % comptime!(f.n as u32);
            if first + own_row + r < head.length {
                let value = scratch[(own + r * comptime!(tiles.score_stride() as u32) + c) as usize];
                let to = head.offset + (first + own_row + r) * head.stride + comptime!((j * f.n) as u32) + c;
                out[to as usize] = F::cast_from(value * factors[(own_row + r) as usize]);
            }
        }
        sync_plane();
    }
}

#[cube(launch_unchecked)]
pub(super) fn forward_kernel<F: Float, I: Int, N: Size>(
    query: &Array<Vector<F, N>>,
    key: &Array<Vector<F, N>>,
    value: &Array<Vector<F, N>>,
    segments: &Array<I>,
    out: &mut Array<F>,
    log_sums: &mut Array<f32>,
    sizes: Sizes,
    #[comptime] tiles: AttentionTiles,
    #[comptime] sight: Sight,
    #[define(F)] _dtype: StorageType,
    #[define(I)] _segment_dtype: StorageType,
) {
    let f = comptime!(tiles.fragment);
    let rows = comptime!(tiles.rows());
    let deepest = comptime!(tiles.columns.max(rows));
    let shared = comptime!(deepest * tiles.stride() / tiles.vector);
    let mut tile_k = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut tile_v = SharedMemory::<Vector<F, N>>::new_aligned(shared, 32usize);
    let mut scores = SharedMemory::<f32>::new_aligned(comptime!(rows * tiles.score_stride()), 32usize);
    let mut weights = SharedMemory::<F>::new_aligned(comptime!(rows * tiles.weight_stride()), 32usize);
    let mut factors = SharedMemory::<f32>::new(rows);

    let block = query_block(sizes, rows, comptime!(tiles.head_dim / tiles.vector));

    load::<F, N>(query, &block.queries, block.first, &mut tile_k, rows, tiles);
    sync_cube();
    let own = own_rows::<F, N>(&tile_k, tiles);
    sync_cube();

    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tiles.head_dim / f.n) {
        sums.push(zeros(tiles));
    }
    let sharing = comptime!(tiles.sharing() as u32);
    let own_row = PLANE_POS * comptime!(f.m as u32) + UNIT_POS_PLANE / sharing;
    let part = UNIT_POS_PLANE % sharing;
    let row = block.first + own_row;
    let mut largest = f32::new(HIDDEN);
    let mut total = 0.0f32;
    let mut begun = false;

    let (begin, end) = key_range(block.first, block.first + comptime!(rows as u32), &sizes, sight);
    let columns = comptime!(tiles.columns as u32);
    let mut column = next_keys::<I>(segments, &block.mask, begin / columns * columns, end, block.first, columns, sight);
    load::<F, N>(key, &block.keys, column, &mut tile_k, tiles.columns, tiles);
    while column < end {
        sync_cube();
        // Values are read while keys are multiplied, and the next keys while values are.
        let held_v = fetch::<F, N>(value, &block.keys, column, tiles.columns, tiles);
        let inside = all_seen::<I>(segments, &block.mask, block.first, comptime!(rows as u32), column, columns, sight);
        products::<F, N>(&own, &tile_k, &mut scores, tiles);
        sync_plane();

        let mut held = Array::<f32>::new(comptime!(tiles.columns / tiles.sharing()));
        let mut top = f32::new(HIDDEN);
        #[unroll]
        for i in 0..comptime!(tiles.columns / tiles.sharing()) {
            let c = part + comptime!((i * tiles.sharing()) as u32);
            let product = scores[(own_row * comptime!(tiles.score_stride() as u32) + c) as usize];
            let (own_score, _slope) = score(product, &sizes, sight);
            held[i] = f32::new(HIDDEN);
            let mut seen = inside;
            if !inside {
                seen = sees::<I>(segments, &block.mask, row, column + c, sight);
            }
            if seen {
                held[i] = own_score;
                top = max(top, own_score);
            }
        }
        #[unroll]
        for i in 0..comptime!(tiles.sharing().ilog2()) {
            top = max(top, plane_shuffle_xor(top, comptime!(1u32 << i)));
        }
        // Sums are rescaled only once a maximum has grown much; then all rows of the plane are.
        let grown = top > largest + SLACK;
        if plane_max(u32::cast_from(grown)) > 0 {
            let newest = max(largest, top);
            let factor = f32::exp(largest - newest);
            largest = newest;
            total *= factor;
            if begun {
                factors[own_row as usize] = factor;
                sync_plane();
                rescale(&sums, &factors, &mut scores, tiles);
            }
            begun = true;
        }
        #[unroll]
        for i in 0..comptime!(tiles.columns / tiles.sharing()) {
            let c = part + comptime!((i * tiles.sharing()) as u32);
            let mut weight = 0.0f32;
            if held[i] > f32::new(HIDDEN / 2.0) {
                weight = f32::exp(held[i] - largest);
            }
            total += weight;
            weights[(own_row * comptime!(tiles.weight_stride() as u32) + c) as usize] = F::cast_from(weight);
        }
        put_tile::<F, N>(&held_v, &mut tile_v, tiles.columns, tiles);
        let next = next_keys::<I>(segments, &block.mask, column + columns, end, block.first, columns, sight);
        let held_k = fetch::<F, N>(key, &block.keys, next, tiles.columns, tiles);
        sync_cube();
        accumulate::<F, N>(&weights, &tile_v, &sums, tiles);
        put_tile::<F, N>(&held_k, &mut tile_k, tiles.columns, tiles);
        column = next;
    }

    #[unroll]
    for i in 0..comptime!(tiles.sharing().ilog2()) {
        total += plane_shuffle_xor(total, comptime!(1u32 << i));
    }
    factors[own_row as usize] = 1.0f32 / max(total, 1.0e-30f32);
    if part == 0 && row < sizes.queries {
        log_sums[(block.statistics + row) as usize] = largest + f32::ln(max(total, 1.0e-30f32));
    }
    sync_plane();
    let wide = comptime!(tiles.head_dim as u32);
    let head = Head {
        offset: block.batch * sizes.queries * sizes.heads * wide + block.head * wide,
        length: sizes.queries,
        stride: sizes.heads * wide,
    };
    write_sums::<F>(&sums, &factors, &mut scores, out, &head, block.first, tiles);
}

/// Multiplies each row of a plane's sums by its factor.
#[cube]
fn rescale(
    sums: &Sequence<cmma::Matrix<f32>>,
    factors: &SharedMemory<f32>,
    scratch: &mut SharedMemory<f32>,
    #[comptime] tiles: AttentionTiles,
) {
    let f = comptime!(tiles.fragment);
    let own = PLANE_POS * comptime!((f.m * tiles.score_stride()) as u32);
    let own_row = PLANE_POS * comptime!(f.m as u32);
    let stride = comptime!(tiles.score_stride() as u32);
    #[unroll]
    for j in 0..comptime!(tiles.head_dim / f.n) {
        let sum = sums.index(j);
        cmma::store(&mut scratch.slice_mut(own as usize, scratch.len()), sum, stride, cmma::MatrixLayout::RowMajor);
        sync_plane();
        #[unroll]
        for i in 0..comptime!(f.m * f.n / PLANE) {
            let index = UNIT_POS_PLANE + comptime!((i * PLANE) as u32);
            let r = index / comptime!(f.n as u32);
            let at = (own + r * stride + index % comptime!(f.n as u32)) as usize;
            scratch[at] = scratch[at] * factors[(own_row + r) as usize];
        }
        sync_plane();
        cmma::load_with_layout(sum, &scratch.slice(own as usize, scratch.len()), stride, cmma::MatrixLayout::RowMajor);
        sync_plane();
    }
}
