//! Matrix units whose registers a kernel may see: those of NVIDIA, 16 × 8 × 16, with operands of 16 bits.
//!
//! Operands come from shared memory by `ldmatrix`, which reads four 8 × 8 matrices at a time. A lane holds two neighbours of a
//! row of a result, and the same two of the row eight below. Source: the PTX manual, "Warp-level matrix instructions".

use cubecl::prelude::barrier::{Barrier, copy_async, copy_async_checked};
use cubecl::prelude::*;

/// Rows of the instruction's result.
pub(crate) const M: usize = 16;
/// Columns of its result.
pub(crate) const N: usize = 8;
/// Terms of its sums.
pub(crate) const K: usize = 16;
/// Elements of 16 bits that a row of an 8 × 8 matrix has; tiles are kept in vectors of that size.
pub(crate) const ROW: usize = 8;

/// Where a lane's row of four matrices begins, in vectors: the second lies eight rows below the first and the third a vector
/// beside it, the other way round where `turned`. A lane names one row of one of them.
#[cube]
pub(crate) fn lane_row(#[comptime] stride: usize, #[comptime] turned: bool) -> u32 {
    let row = UNIT_POS_PLANE % 8;
    let second = UNIT_POS_PLANE / 8 % 2;
    let third = UNIT_POS_PLANE / 16;
    if comptime!(turned) {
        (third * 8 + row) * comptime!(stride as u32) + second
    } else {
        (second * 8 + row) * comptime!(stride as u32) + third
    }
}

/// Vectors from the first fragment of a tile to that of `along` (rows of the left operand, columns of the right) and `depth`,
/// where the elements of a row follow each other by depth, or else by the other.
pub(crate) fn fragment_at(along: usize, depth: usize, stride: usize, by_depth: bool) -> usize {
    if by_depth { along * stride + depth / ROW } else { depth * stride + along / ROW }
}

/// A fragment of the left operand, 16 × 16, whose lane rows begin `at` vectors after `start`; `turned` where terms lie as rows.
#[cube]
pub(crate) fn left<F: Float, S: Size, NA: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] turned: bool,
) -> Array<Vector<F, NA>> {
    let from = (start + comptime!(at as u32)) as usize;
    definition.load_matrix::<_, NA>(&tile.slice(from, from + 1), cmma::MatrixIdent::A, 4usize, turned)
}

/// Two fragments of the right operand, side by side, 16 × 16, one after the other, whose lane rows begin `at` vectors after `start`;
/// `turned` where columns lie as rows.
#[cube]
pub(crate) fn right_pair<F: Float, S: Size, NB: Size>(
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] turned: bool,
) -> Array<Vector<F, NB>> {
    let from = (start + comptime!(at as u32)) as usize;
    definition.load_matrix::<_, NB>(&tile.slice(from, from + 1), cmma::MatrixIdent::B, 4usize, comptime!(!turned))
}

/// Adds the fragments of a [`right_pair`].
#[cube]
pub(crate) fn right<F: Float, S: Size, NB: Size>(
    fragments: &mut Sequence<Array<Vector<F, NB>>>,
    definition: &cmma::MmaDefinition<F, F, f32>,
    tile: &SharedMemory<Vector<F, S>>,
    start: u32,
    #[comptime] at: usize,
    #[comptime] turned: bool,
) {
    let four = right_pair::<F, S, NB>(definition, tile, start, at, turned);
    #[unroll]
    for half in 0..2usize {
        let mut two = Array::<Vector<F, NB>>::new(2usize);
        two[0] = four[comptime!(half * 2)];
        two[1] = four[comptime!(half * 2 + 1)];
        fragments.push(two);
    }
}

/// Sums of zero, so many fragments.
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

/// Begins the copy of one vector to shared memory: zeros where it does not exist. [`Barrier::commit_copy_async`] tells when it
/// is there.
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

/// A tile that is copied row by row, whose `vectors` of a row lie `stride` apart from the next row's in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopiedTile {
    pub rows: usize,
    pub vectors: usize,
    pub stride: usize,
    pub units: usize,
    /// Whether some of its vectors may not exist.
    pub checked: bool,
}

impl CopiedTile {
    /// Vectors that a unit copies.
    pub(crate) fn count(&self) -> usize {
        (self.rows * self.vectors).div_ceil(self.units)
    }

    /// Whether each unit's vectors are all of one column.
    pub(crate) fn in_columns(&self) -> bool {
        self.units.is_multiple_of(self.vectors)
    }
}

/// Begins copies of a tile to shared memory, from `to` on: those of each unit's vectors from number `first` to before `last`. The
/// tile's first vector is number `offset + row * row_stride + column` of the source, whose rows end before `rows` and their vectors
/// before `columns`; beyond are zeros.
#[cube]
pub(crate) fn copy_tile<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    offset: u32,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    row_stride: u32,
    #[comptime] first: usize,
    #[comptime] last: usize,
    #[comptime] tile: CopiedTile,
) {
    let vectors = comptime!(tile.vectors as u32);
    if comptime!(tile.in_columns()) {
        let from = offset + (row + UNIT_POS / vectors) * row_stride + column + UNIT_POS % vectors;
        copy_columns::<F, S>(source, shared, to, from, row, column, rows, columns, row_stride, first, last, tile);
    } else {
        #[unroll]
        for i in first..last {
            let at = UNIT_POS + comptime!((i * tile.units) as u32);
            let (r, c) = (at / vectors, at % vectors);
            let exists = row + r < rows && column + c < columns;
            let from = offset + (row + r) * row_stride + column + c;
            if at < comptime!((tile.rows * tile.vectors) as u32) {
                copy::<F, S>(source, from, exists, shared, to + r * comptime!(tile.stride as u32) + c, tile.checked);
            }
        }
    }
}

/// As [`copy_tile`], where each unit keeps its column and goes down by the same number of rows each time. Its first vector is number
/// `from`.
#[cube]
pub(crate) fn copy_columns<F: Float, S: Size>(
    source: &Array<Vector<F, S>>,
    shared: &mut SharedMemory<Vector<F, S>>,
    to: u32,
    from: u32,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    row_stride: u32,
    #[comptime] first: usize,
    #[comptime] last: usize,
    #[comptime] tile: CopiedTile,
) {
    let vectors = comptime!(tile.vectors as u32);
    let step = comptime!(tile.units / tile.vectors);
    let (r, c) = (UNIT_POS / vectors, UNIT_POS % vectors);
    let to = to + r * comptime!(tile.stride as u32) + c;
    let down = row_stride * comptime!(step as u32);
    #[unroll]
    for i in first..last {
        let below = comptime!((i * step) as u32);
        let exists = row + r + below < rows && column + c < columns;
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

/// Says that this plane has begun its copies: `barrier`, of as many arrivals as there are planes, opens once those of all are
/// there.
#[cube]
pub(crate) fn commit(barrier: &Barrier) {
    barrier.commit_copy_async();
    sync_plane();
    if UNIT_POS_PLANE == 0 {
        barrier.arrive();
    }
}
