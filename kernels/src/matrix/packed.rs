//! Operand `B` in few bits: its tiles are dequantised on their way to shared memory.
//!
//! Kernels read eight elements at a time, which lie in one word or two, and have one scale.

// Of `#[cube]` functions, whose operators are those of the kernel.
#![allow(clippy::assign_op_pattern, clippy::needless_range_loop, clippy::neg_multiply)]

use cubecl::prelude::*;

use super::tile::Tile;
use crate::packed::codebook::NF4;
use crate::packed::cube::{Code, MAP, ScaleWords, Scaling, Starts, float, scale_code, scale_words, scaling_from, table};

/// Elements that are read together.
pub(super) const EIGHT: usize = 8;

/// Bytes of shared memory that the tables of a code take.
pub(super) fn table_bytes(code: Code) -> usize {
    (NF4.len() + if code.has_map() { MAP } else { 1 }) * size_of::<f32>()
}

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

/// A packed matrix, with its tables in shared memory.
#[derive(CubeType)]
pub(super) struct Weights {
    pub words: Array<u32>,
    pub starts: Starts,
    /// The values of codes.
    table: SharedMemory<f32>,
    /// Those of the codes of scales, where they are kept, and the offset.
    map: SharedMemory<f32>,
    #[cube(comptime)]
    pub code: Code,
    /// Whether they are kept.
    #[cube(comptime)]
    mapped: bool,
}

/// Makes an operand ready; all threads of the cube must call it.
#[cube]
pub(super) fn open<E: CubePrimitive>(operand: Operand<E>) -> Source<E> {
    match operand {
        Operand::Dense(array) => Source::<E>::new_Dense(array),
        Operand::Packed(packed) => Source::<E>::new_Packed(weights(packed, true)),
    }
}

/// The same, of an operand that is packed; `mapped` where threads take the values of the codes of scales from shared memory.
#[cube]
pub(super) fn weights(packed: Words, #[comptime] mapped: bool) -> Weights {
    let code = comptime!(packed.code);
    let table = table(code);
    let starts = Starts {
        high: kept(packed.starts.high),
        scales: kept(packed.starts.scales),
        coarse: kept(packed.starts.coarse),
        map: kept(packed.starts.map),
    };
    let mapped = comptime!(mapped && code.has_map());
    let map = map(&packed.words, &starts, mapped);
    Weights { words: packed.words, starts, table, map, code, mapped }
}

/// The values of the codes of scales, and the offset, in shared memory; else a placeholder.
#[cube]
fn map(words: &Array<u32>, starts: &Starts, #[comptime] mapped: bool) -> SharedMemory<f32> {
    let mut map = SharedMemory::<f32>::new(comptime!(if mapped { MAP } else { 1 }));
    if comptime!(mapped) {
        let mut at = UNIT_POS;
        while at < comptime!(MAP as u32) {
            map[at as usize] = f32::reinterpret(words[(starts.map + at) as usize]);
            at += CUBE_DIM;
        }
        sync_cube();
    }
    map
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
    let mut high = 0u32;
    if comptime!(code.high > 0) {
        let word = weights.words[(weights.starts.high + eight / comptime!(eights_of_high(code) as u32)) as usize];
        high = own_high(word, eight, code);
    }
    integers_below(weights, eight, high)
}

/// Eights whose upper bits are in a word.
pub(super) fn eights_of_high(code: Code) -> usize {
    4 / code.high.max(1)
}

/// The upper bits of eight elements in the word that has them.
#[cube]
pub(super) fn own_high(word: u32, eight: u32, #[comptime] code: Code) -> u32 {
    word >> (eight % comptime!(eights_of_high(code) as u32) * comptime!((EIGHT * code.high) as u32))
}

/// As [`integers`], with the upper bits at hand.
#[cube]
pub(super) fn integers_below(weights: &Weights, eight: u32, high: u32) -> Integers {
    let (low, next) = if comptime!(weights.code.low == 8) {
        (weights.words[(eight * 2) as usize], weights.words[(eight * 2 + 1) as usize])
    } else {
        (weights.words[eight as usize], 0u32.runtime())
    };
    Integers { low, next, high }
}

/// Scale and bias of the group of eight elements.
#[cube]
pub(super) fn scaling_of(weights: &Weights, eight: u32) -> Scaling {
    let code = comptime!(weights.code);
    let group = eight / comptime!((code.group / EIGHT) as u32);
    let read = scale_words(&weights.words, group, &weights.starts, code);
    scaling_by(weights, &read, group)
}

/// Scale and bias of a group from its words.
#[cube]
pub(super) fn scaling_by(weights: &Weights, read: &ScaleWords, group: u32) -> Scaling {
    if comptime!(weights.mapped) {
        let value = weights.map[scale_code(read.first, group) as usize];
        let offset = weights.map[comptime!(MAP - 1)];
        Scaling { scale: value * f32::reinterpret(read.second) + offset, bias: f32::new(0.0) }
    } else {
        scaling_from(&weights.words, read, group, &weights.starts, weights.code)
    }
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
pub(super) struct Runs {
    /// Eights of a run.
    pub length: usize,
    /// Runs of a row.
    pub across: usize,
    /// Runs of the tile.
    pub all: usize,
    /// Runs of a thread.
    pub held: usize,
    /// Vectors of an eight.
    pub parts: usize,
}

/// The runs of a tile in vectors of so many elements: as long as leaves every thread one.
pub(super) fn runs(tile: Tile, vector: usize, code: Code) -> Runs {
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

/// The first eight of a thread's run number `i`, over all rows, and whether there is such a run. The tile begins at `(row, column)`, in
/// rows and eights.
#[cube]
pub(super) fn run_at(
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    #[comptime] i: usize,
    #[comptime] tile: Tile,
    #[comptime] runs: Runs,
) -> (u32, bool) {
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
    (r * columns + c, inside)
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
        let (first, inside) = run_at(row, column, rows, columns, i, tile, runs);
        if inside {
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
