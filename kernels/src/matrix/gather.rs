//! Words of a packed `B` that neighbouring threads need: one of them reads such a word, and the others get it from there.
//!
//! That is worth it where a group has more than a word beside its lower bits; see [`gathers`].

// Of `#[cube]` functions, whose operators are those of the kernel.
#![allow(clippy::assign_op_pattern)]

use cubecl::prelude::*;

use super::packed::{EIGHT, Weights, eights_of_high, integers_below, own_high, run_at, runs, scaling_by, values};
use super::tile::Tile;
use crate::packed::cube::{Code, ScaleWords, first_at, has_third, second_at};

/// Eights that lie in one group, or in two whose scales are in the same words.
const SCALED_TOGETHER: usize = 4;

/// Whether words are gathered.
pub(super) fn gathers(code: Code) -> bool {
    code.high > 0 || code.has_second()
}

/// How many neighbouring threads need a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sharing {
    /// That of a scale.
    scale: usize,
    /// That of upper bits.
    high: usize,
    /// Words of upper bits that a run needs.
    high_words: usize,
}

/// The sharing of a tile in runs of so many eights, as many of them a row.
fn sharing(length: usize, across: usize, code: Code) -> Sharing {
    let threads = |eights: usize| {
        let mut threads = (eights / length).max(1);
        while !across.is_multiple_of(threads) {
            threads /= 2;
        }
        threads
    };
    let eights = eights_of_high(code);
    Sharing { scale: threads(SCALED_TOGETHER), high: threads(eights), high_words: length.div_ceil(eights) }
}

/// The word at `at`, which `threads` neighbours need: number `reader` of them reads it, if they are `inside`, of which all must agree.
#[cube]
fn gathered(words: &Array<u32>, at: u32, inside: bool, #[comptime] reader: usize, #[comptime] threads: usize) -> u32 {
    let mut reads = inside;
    if comptime!(threads > 1) {
        reads = inside && UNIT_POS_PLANE % comptime!(threads as u32) == comptime!((reader % threads) as u32);
    }
    let mut word = 0u32;
    if reads {
        word = words[at as usize];
    }
    // All others have 0.
    #[unroll]
    for i in 0..comptime!(threads.ilog2()) {
        word = word | plane_shuffle_xor(word, comptime!(1u32 << i));
    }
    word
}

/// The words of a group's scale.
#[cube]
fn gathered_scale(weights: &Weights, group: u32, inside: bool, #[comptime] threads: usize) -> ScaleWords {
    let code = comptime!(weights.code);
    let first = gathered(&weights.words, first_at(group, &weights.starts, code), inside, 0usize, threads);
    let mut second = 0u32;
    let mut third = 0u32;
    if comptime!(code.has_second()) {
        let at = second_at(group, &weights.starts, code);
        second = gathered(&weights.words, at, inside, 1usize, threads);
        if comptime!(code.has_third()) {
            third = gathered(&weights.words, at + 1, inside && has_third(group), 2usize, threads);
        }
    }
    ScaleWords { first, second, third }
}

/// As [`fetch_packed`](super::packed::fetch_packed). All threads of a plane must call it.
#[cube]
pub(super) fn fetch_gathered<F: Float, N: Size>(
    weights: &Weights,
    held: &mut Array<Vector<F, N>>,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
    #[comptime] tile: Tile,
    #[comptime] vector: usize,
) {
    let code = comptime!(weights.code);
    let runs = comptime!(runs(tile, vector, code));
    let sharing = comptime!(sharing(runs.length, runs.across, code));
    let mut upper = Array::<u32>::new(sharing.high_words);
    #[unroll]
    for i in 0..comptime!(runs.held) {
        let (first, inside) = run_at(row, column, rows, columns, i, tile, runs);
        let group = first / comptime!((code.group / EIGHT) as u32);
        let read = gathered_scale(weights, group, inside, sharing.scale);
        if comptime!(code.high > 0) {
            let from = weights.starts.high + first / comptime!(eights_of_high(code) as u32);
            #[unroll]
            for word in 0..comptime!(sharing.high_words) {
                upper[word] = gathered(&weights.words, from + comptime!(word as u32), inside, 0usize, sharing.high);
            }
        }
        if inside {
            let scaling = scaling_by(weights, &read, group);
            #[unroll]
            for e in 0..comptime!(runs.length) {
                let eight = first + comptime!(e as u32);
                let mut high = 0u32;
                if comptime!(code.high > 0) {
                    high = own_high(upper[comptime!(e / eights_of_high(code))], eight, code);
                }
                let integers = integers_below(weights, eight, high);
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
