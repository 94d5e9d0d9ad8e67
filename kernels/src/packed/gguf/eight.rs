//! Types with blocks of 32: eight blocks of a row are quantised together.

use super::BLOCK;
use super::k::{mean_square, weigh};
use super::lanes::{LANES, Lanes, one_by_one, side_by_side};
use super::search::{Fit, extremes};

/// One block: `x ≈ scale · q - below`, or about the middle of the integers.
pub(super) struct Block {
    pub scale: f32,
    pub below: f32,
    pub q: [u8; BLOCK],
}

/// Quantises the blocks of a row, and writes each: with `search` where the importance of columns is known, else with `plain`.
#[inline(always)]
pub(super) fn each_fit<const BYTES: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
    plain: impl Fn(&[Lanes; BLOCK]) -> Fit<BLOCK, LANES>,
    search: impl Fn(&[Lanes; BLOCK], &[Lanes; BLOCK]) -> Fit<BLOCK, LANES>,
    write: impl Fn(&Block, &mut [u8]),
) {
    let together = BLOCK * LANES;
    let square = importance.map_or(0.0, |_| mean_square(row));
    for (at, (x, blocks)) in row.chunks(together).zip(blocks.chunks_mut(BYTES * LANES)).enumerate() {
        let groups = side_by_side(x);
        let fit = match importance {
            Some(importance) => search(&groups, &weigh(&groups, &importance[together * at..][..x.len()], square)),
            None => plain(&groups),
        };
        let mut q = [0; BLOCK * LANES];
        one_by_one(&fit.q, &mut q);
        for (group, (b, q)) in blocks.chunks_exact_mut(BYTES).zip(q.as_chunks().0).enumerate() {
            write(&Block { scale: fit.scale.0[group], below: fit.below.0[group], q: *q }, b);
        }
    }
}

/// `1 / scale`, 0 for 0.
#[inline(always)]
fn inverses(scale: Lanes) -> Lanes {
    scale.equals(Lanes::ZERO).select(Lanes::ZERO, Lanes::all(1.0) / scale)
}

/// Integers about a centre, with the scale that gives the element of largest magnitude the lowest one.
#[inline(always)]
pub(super) fn centred(x: &[Lanes; BLOCK], centre: f32) -> Fit<BLOCK, LANES> {
    let scale = extremes(x).0 / Lanes::all(-centre);
    let inverse = inverses(scale);
    let integer = |x: Lanes| (x * inverse + Lanes::all(centre + 0.5)).floor().min(Lanes::all(2.0 * centre - 1.0));
    Fit { scale, below: Lanes::ZERO, q: x.map(integer) }
}

/// Integers from the least element to the largest.
#[inline(always)]
pub(super) fn ranged(x: &[Lanes; BLOCK], most: f32) -> Fit<BLOCK, LANES> {
    let least = x.iter().skip(1).fold(x[0], |least, x| x.min(least));
    let largest = x.iter().skip(1).fold(x[0], |largest, x| x.max(largest));
    let scale = (largest - least) / Lanes::all(most);
    let inverse = inverses(scale);
    let integer = |x: Lanes| ((x - least) * inverse + Lanes::all(0.5)).floor().min(Lanes::all(most));
    Fit { scale, below: -least, q: x.map(integer) }
}
