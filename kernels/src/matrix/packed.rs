//! Operand `B` in few bits: its tiles are dequantised on their way to shared memory.
//!
//! Kernels read eight elements at a time, which lie in one word or two, and have one scale.

// Of `#[cube]` functions, whose operators are those of the kernel.
#![allow(clippy::assign_op_pattern, clippy::needless_range_loop, clippy::neg_multiply)]

use cubecl::prelude::*;

use super::tile::Tile;
use crate::packed::codebook::NF4;
use crate::packed::cube::{Code, Scaling, Starts, float, scaling, table};

/// Elements that are read together.
pub(super) const EIGHT: usize = 8;
/// Bytes of shared memory that a table takes.
pub(super) const TABLE_BYTES: usize = NF4.len() * size_of::<f32>();

/// Operand `B` as a launch binds it.
#[derive(CubeType, CubeLaunch)]
#[allow(dead_code, reason = "kernels construct what the macro makes of it")]
pub(super) enum Operand<E: CubePrimitive> {
    Dense(Array<E>),
    Packed(Words),
}

/// A packed matrix.
#[allow(clippy::struct_field_names)]
#[derive(CubeType, CubeLaunch)]
pub(super) struct Words {
    words: Array<u32>,
    starts: Starts,
    #[cube(comptime)]
    code: Code,
}

/// Operand `B` as a kernel reads it.
#[derive(CubeType)]
#[allow(dead_code, reason = "kernels construct what the macro makes of it")]
pub(super) enum Source<E: CubePrimitive> {
    Dense(Array<E>),
    Packed(Weights),
}

/// A packed matrix, with the table of its codes in shared memory.
#[derive(CubeType)]
pub(super) struct Weights {
    words: Array<u32>,
    starts: Starts,
    table: SharedMemory<f32>,
    #[cube(comptime)]
    pub code: Code,
}

/// Makes an operand ready; all threads of the cube must call it.
#[cube]
pub(super) fn open<E: CubePrimitive>(operand: Operand<E>) -> Source<E> {
    match operand {
        Operand::Dense(array) => Source::<E>::new_Dense(array),
        Operand::Packed(packed) => Source::<E>::new_Packed(weights(packed)),
    }
}

/// The same, of an operand that is packed.
#[cube]
pub(super) fn weights(packed: Words) -> Weights {
    let code = comptime!(packed.code);
    let table = table(code);
    let starts = Starts {
        high: kept(packed.starts.high),
        scales: kept(packed.starts.scales),
        coarse: kept(packed.starts.coarse),
        map: kept(packed.starts.map),
    };
    Weights { words: packed.words, starts, table, code }
}

/// A value in a register: arguments of a launch would be read from memory at each use.
#[cube]
pub(super) fn kept(value: u32) -> u32 {
    RuntimeCell::<u32>::new(value).consume()
}

/// The bits of eight elements.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Integers {
    pub low: u32,
    /// Lower bits of the last four, where those of one have a byte.
    pub next: u32,
    /// Upper bits, from the lowest bit on.
    pub high: u32,
}

/// The bits of eight elements, number `eight` of such over all rows.
#[cube]
pub(super) fn integers(weights: &Weights, eight: u32) -> Integers {
    let code = comptime!(weights.code);
    let (low, next) = if comptime!(code.low == 8) {
        (weights.words[(eight * 2) as usize], weights.words[(eight * 2 + 1) as usize])
    } else {
        (weights.words[eight as usize], 0u32.runtime())
    };
    let mut high = 0u32;
    if comptime!(code.high > 0) {
        let each = comptime!((4 / code.high.max(1)) as u32);
        let word = weights.words[(weights.starts.high + eight / each) as usize];
        high = word >> (eight % each * comptime!((EIGHT * code.high) as u32));
    }
    Integers { low, next, high }
}

/// Scale and bias of the group of eight elements.
#[cube]
pub(super) fn scaling_of(weights: &Weights, eight: u32) -> Scaling {
    let code = comptime!(weights.code);
    scaling(&weights.words, eight / comptime!((code.group / EIGHT) as u32), &weights.starts, code)
}

/// `N` of the eight elements from number `first` on, in f32.
#[cube]
pub(super) fn values<N: Size>(
    weights: &Weights,
    integers: &Integers,
    scaling: &Scaling,
    #[comptime] first: usize,
) -> Vector<f32, N> {
    let code = comptime!(weights.code);
    let mut levels = Vector::<f32, N>::new(0.0f32);
    let size = levels.size().comptime();
    #[unroll]
    for lane in 0..size {
        let at = comptime!(first + lane);
        let shift = comptime!((at * code.low % 32) as u32);
        let mask = comptime!((1u32 << code.low) - 1);
        let mut integer = (integers.low >> shift) & mask;
        if comptime!(at * code.low >= 32) {
            integer = (integers.next >> shift) & mask;
        }
        if comptime!(code.high > 0) {
            let upper = (integers.high >> comptime!((at * code.high) as u32)) & comptime!((1u32 << code.high) - 1);
            integer = integer | (upper << comptime!(code.low as u32));
        }
        if comptime!(code.has_table()) {
            levels[lane] = weights.table[integer as usize];
        } else {
            levels[lane] = float(integer, comptime!(code.zero()));
        }
    }
    let mut weights = levels * Vector::new(scaling.scale);
    if comptime!(code.has_bias()) {
        weights += Vector::new(scaling.bias);
    }
    weights
}

/// How the threads of a cube share a tile of `B`: in runs of eights that have one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Runs {
    /// Eights of a run.
    length: usize,
    /// Runs of a row.
    across: usize,
    /// Runs of the tile.
    all: usize,
    /// Runs of a thread.
    held: usize,
    /// Vectors of an eight.
    parts: usize,
}

/// The runs of a tile in vectors of so many elements: as long as leaves every thread one.
fn runs(tile: Tile, vector: usize, code: Code) -> Runs {
    let parts = EIGHT / vector;
    let row = tile.vectors / parts;
    let mut length = code.group / EIGHT;
    while length > 1 && !(row.is_multiple_of(length) && tile.rows * row >= length * tile.threads) {
        length /= 2;
    }
    let all = tile.rows * row / length;
    Runs { length, across: row / length, all, held: all.div_ceil(tile.threads), parts }
}

/// Vectors of a thread's runs.
pub(super) fn held(tile: Tile, vector: usize, code: Code) -> usize {
    let runs = runs(tile, vector, code);
    runs.held * runs.length * runs.parts
}

/// As [`fetch`](super::tile::fetch): the tile begins at `(row, column)`, in rows and eights.
#[cube]
pub(super) fn fetch_packed<F: Float, N: Size>(
    weights: &Weights,
    held: &mut Array<Vector<F, N>>,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    #[comptime] tile: Tile,
    #[comptime] vector: usize,
) {
    let runs = comptime!(runs(tile, vector, weights.code));
    #[unroll]
    for i in 0..comptime!(runs.held) {
        let at = UNIT_POS + comptime!((i * tile.threads) as u32);
        let r = row + at / comptime!(runs.across as u32);
        let c = column + at % comptime!(runs.across as u32) * comptime!(runs.length as u32);
        let mut inside = true;
        if comptime!(!runs.all.is_multiple_of(tile.threads)) {
            inside = at < comptime!(runs.all as u32);
        }
        if comptime!(tile.ragged_rows) {
            inside = inside && r < rows;
        }
        if comptime!(tile.ragged_vectors) {
            inside = inside && c < columns;
        }
        if inside {
            let first = r * columns + c;
            let scaling = scaling_of(weights, first);
            #[unroll]
            for e in 0..comptime!(runs.length) {
                let integers = integers(weights, first + comptime!(e as u32));
                #[unroll]
                for part in 0..comptime!(runs.parts) {
                    let values = values::<N>(weights, &integers, &scaling, comptime!(part * vector));
                    held[comptime!((i * runs.length + e) * runs.parts + part)] = Vector::<F, N>::cast_from(values);
                }
            }
        } else {
            #[unroll]
            for v in 0..comptime!(runs.length * runs.parts) {
                held[comptime!(i * runs.length * runs.parts + v)] = Vector::<F, N>::new(F::new(0.0));
            }
        }
    }
}

/// Writes what [`fetch_packed`] read to shared memory.
#[cube]
pub(super) fn put_packed<F: Float, N: Size>(
    held: &Array<Vector<F, N>>,
    shared: &mut SharedMemory<Vector<F, N>>,
    base: u32,
    #[comptime] tile: Tile,
    #[comptime] vector: usize,
    #[comptime] code: Code,
) {
    let runs = comptime!(runs(tile, vector, code));
    let vectors = comptime!(runs.length * runs.parts);
    #[unroll]
    for i in 0..comptime!(runs.held) {
        let at = UNIT_POS + comptime!((i * tile.threads) as u32);
        let r = at / comptime!(runs.across as u32);
        let c = at % comptime!(runs.across as u32) * comptime!(vectors as u32);
        let to = base + r * comptime!(tile.stride(vector) as u32) + c;
        let mut exists = true;
        if comptime!(!runs.all.is_multiple_of(tile.threads)) {
            exists = at < comptime!(runs.all as u32);
        }
        if exists {
            #[unroll]
            for v in 0..vectors {
                shared[to as usize + v] = held[comptime!(i * vectors + v)];
            }
        }
    }
}
