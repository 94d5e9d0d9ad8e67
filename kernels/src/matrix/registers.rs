//! Matrix units whose registers a kernel can access: those of NVIDIA, 16 × 8 × 16, with operands of 16 bits.
//!
//! `ldmatrix` reads operands from shared memory, four 8 × 8 matrices at a time. Each thread of a plane holds two neighbouring
//! elements of a row of the result, and the same two of the row eight below. Source: the PTX manual, "Warp-level matrix
//! instructions".

use cubecl::prelude::barrier::{Barrier, copy_async, copy_async_checked};
use cubecl::prelude::*;

/// Rows of the instruction's result.
pub(crate) const M: usize = 16;
/// Columns of its result.
pub(crate) const N: usize = 8;
/// Terms of its sums.
pub(crate) const K: usize = 16;
/// Elements of a row of an 8 × 8 matrix; tiles are kept in vectors of that size.
pub(crate) const ROW: usize = 8;

/// Where the row that this thread passes to `ldmatrix` begins, in vectors. Of the four matrices, the second lies eight rows
/// below the first and the third one vector beside it, or the reverse where `swapped`.
#[cube]
pub(crate) fn thread_row(#[comptime] stride: usize, #[comptime] swapped: bool) -> u32 {
    let row = UNIT_POS_PLANE % 8;
    let second = UNIT_POS_PLANE / 8 % 2;
    let third = UNIT_POS_PLANE / 16;
    if comptime!(swapped) {
        (third * 8 + row) * comptime!(stride as u32) + second
    } else {
        (second * 8 + row) * comptime!(stride as u32) + third
    }
}

/// Vectors from the start of a tile to its fragment at `along` (rows of the left operand, columns of the right) and `depth`.
/// Rows of the tile run over the depth where `by_depth`, else over the other axis.
pub(crate) fn fragment_at(along: usize, depth: usize, stride: usize, by_depth: bool) -> usize {
    if by_depth { along * stride + depth / ROW } else { depth * stride + along / ROW }
}

/// A fragment of the left operand, 16 × 16, `at` vectors after `start`; `transposed` where it is stored as `[k, m]`.
#[cube]
pub(crate) fn left<F: Float, S: Size, NA: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] transposed: bool,
) -> Array<Vector<F, NA>> {
    let from = (start + comptime!(at as u32)) as usize;
    definition.load_matrix::<_, NA>(&tile.slice(from, from + 1), cmma::MatrixIdent::A, 4usize, transposed)
}

/// Two adjacent fragments of the right operand, together 16 × 16, `at` vectors after `start`; `transposed` where it is stored as
/// `[n, k]`.
#[cube]
pub(crate) fn right_pair<F: Float, S: Size, NB: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] transposed: bool,
) -> Array<Vector<F, NB>> {
    let from = (start + comptime!(at as u32)) as usize;
    definition.load_matrix::<_, NB>(&tile.slice(from, from + 1), cmma::MatrixIdent::B, 4usize, comptime!(!transposed))
}

/// Appends the fragments of a [`right_pair`].
#[cube]
pub(crate) fn right<F: Float, S: Size, NB: Size>(
    fragments: &mut Sequence<Array<Vector<F, NB>>>,
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] transposed: bool,
) {
    let four = right_pair::<F, S, NB>(definition, tile, start, at, transposed);
    #[unroll]
    for half in 0..2usize {
        let mut two = Array::<Vector<F, NB>>::new(2usize);
        two[0] = four[comptime!(half * 2)];
        two[1] = four[comptime!(half * 2 + 1)];
        fragments.push(two);
    }
}

/// `count` fragments of zeros.
#[cube]
pub(crate) fn zeros<NC: Size>(#[comptime] count: usize) -> Sequence<Array<Vector<f32, NC>>> {
    let mut sums = Sequence::<Array<Vector<f32, NC>>>::new();
    #[unroll]
    for _ in 0..count {
        let mut sum = Array::<Vector<f32, NC>>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            sum[i] = Vector::<f32, NC>::new(0.0f32);
        }
        sums.push(sum);
    }
    sums
}

/// Begins the copy of one vector to shared memory: zeros where it does not exist. It has arrived once a barrier that was told by
/// [`commit`] opens.
#[cube]
fn copy<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    from: u32,
    exists: bool,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    #[comptime] checked: bool,
) {
    let to = to as usize;
    if comptime!(checked) {
        let from = select(exists, from, 0u32) as usize;
        let end = from + select(exists, 1u32, 0u32) as usize;
        copy_async_checked(&source.slice(from, end), &mut shared.slice_mut(to, to + 1), comptime!(ROW as u32));
    } else {
        let from = from as usize;
        copy_async(&source.slice(from, from + 1), &mut shared.slice_mut(to, to + 1), comptime!(ROW as u32));
    }
}

/// A tile that is copied to shared memory row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopiedTile {
    pub rows: usize,
    /// Vectors of a row.
    pub vectors: usize,
    /// Vectors from one row to the next in shared memory.
    pub stride: usize,
    /// Threads that copy.
    pub threads: usize,
    /// Whether some of its vectors may lie beyond the source.
    pub checked: bool,
}

impl CopiedTile {
    /// Vectors that a thread copies.
    pub(crate) fn count(&self) -> usize {
        (self.rows * self.vectors).div_ceil(self.threads)
    }

    /// Whether each thread's vectors are all in one column.
    pub(crate) fn in_columns(&self) -> bool {
        self.threads.is_multiple_of(self.vectors)
    }

    /// Every vector of the tile.
    pub(crate) fn whole(self) -> CopiedPart {
        CopiedPart { first: 0, end: self.count(), tile: self }
    }

    /// Part `part` of `parts` of about equal size.
    pub(crate) fn part(self, part: usize, parts: usize) -> CopiedPart {
        let count = self.count();
        CopiedPart { first: count * part / parts, end: count * (part + 1) / parts, tile: self }
    }
}

/// Some vectors of a [`CopiedTile`]: of each thread's, those from number `first` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopiedPart {
    pub first: usize,
    pub end: usize,
    pub tile: CopiedTile,
}

/// Where a tile lies in a matrix, in rows and vectors.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Area {
    /// The tile's first row.
    pub row: u32,
    /// The tile's first vector in a row.
    pub column: u32,
    /// Where the rows end; beyond, zeros are copied.
    pub rows: u32,
    /// Where the vectors of a row end; beyond, zeros are copied.
    pub columns: u32,
    /// Vectors from one row to the next.
    pub stride: u32,
}

/// Begins copies of a part of a tile to shared memory, from `to` on. `offset` is the vector of the source at which the matrix
/// begins.
#[cube]
pub(crate) fn copy_tile<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    offset: u32,
    area: &Area,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    #[comptime] part: CopiedPart,
) {
    let tile = comptime!(part.tile);
    let vectors = comptime!(tile.vectors as u32);
    if comptime!(tile.in_columns()) {
        let from = offset + (area.row + UNIT_POS / vectors) * area.stride + area.column + UNIT_POS % vectors;
        copy_columns::<F, S>(source, from, area, shared, to, part);
    } else {
        #[unroll]
        for i in comptime!(part.first)..comptime!(part.end) {
            let at = UNIT_POS + comptime!((i * tile.threads) as u32);
            let (r, c) = (at / vectors, at % vectors);
            let exists = area.row + r < area.rows && area.column + c < area.columns;
            let from = offset + (area.row + r) * area.stride + area.column + c;
            if at < comptime!((tile.rows * tile.vectors) as u32) {
                copy::<F, S>(source, from, exists, shared, to + r * comptime!(tile.stride as u32) + c, tile.checked);
            }
        }
    }
}

/// As [`copy_tile`], where each thread stays in its column and moves down by the same number of rows each time. `from` is the
/// thread's own first vector.
#[cube]
pub(crate) fn copy_columns<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    from: u32,
    area: &Area,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    #[comptime] part: CopiedPart,
) {
    let tile = comptime!(part.tile);
    let vectors = comptime!(tile.vectors as u32);
    let step = comptime!(tile.threads / tile.vectors);
    let (r, c) = (UNIT_POS / vectors, UNIT_POS % vectors);
    let to = to + r * comptime!(tile.stride as u32) + c;
    let down = area.stride * comptime!(step as u32);
    #[unroll]
    for i in comptime!(part.first)..comptime!(part.end) {
        let below = comptime!((i * step) as u32);
        let exists = area.row + r + below < area.rows && area.column + c < area.columns;
        let from = from + down * comptime!(i as u32);
        let to = to + comptime!((i * step * tile.stride) as u32);
        if comptime!((i + 1) * step > tile.rows) {
            if r + below < comptime!(tile.rows as u32) {
                copy::<F, S>(source, from, exists, shared, to, tile.checked);
            }
        } else {
            copy::<F, S>(source, from, exists, shared, to, tile.checked);
        }
    }
}

/// Tells `barrier` that this plane has begun its copies. It expects one arrival of each plane, and opens once the copies of all
/// have completed.
#[cube]
pub(crate) fn commit(barrier: &Barrier) {
    barrier.commit_copy_async();
    sync_plane();
    if UNIT_POS_PLANE == 0 {
        barrier.arrive();
    }
}
