//! What the K types share: eight groups of 32 with scales and minima of six bits, and integers of two bits four to a byte.
//!
//! Sums are taken in f32 in the order of llama.cpp, which the blocks depend on.

use super::lanes::{Lanes, one_by_one, side_by_side};
use super::search::{Fit, Search, positive};
use super::{BLOCK, BLOCK_K, half, put_half};

/// Groups of a block with scales and minima of six bits.
const GROUPS: usize = BLOCK_K / BLOCK;
/// Elements of a group of the types with sixteen groups.
pub(super) const SMALL: usize = 16;
/// Groups of such a block.
pub(super) const SMALL_GROUPS: usize = BLOCK_K / SMALL;

/// Mean square of some elements, summed in their order.
#[inline(always)]
pub(super) fn mean_square(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x) / x.len() as f32
}

/// How much elements weigh: the importance of their column times their magnitude, which is at least about the `square` root.
#[inline(always)]
pub(super) fn weigh<const N: usize, const G: usize>(x: &[Lanes<G>; N], importance: &[f32], square: f32) -> [Lanes<G>; N] {
    let mut weights = side_by_side::<N, G>(importance);
    for (w, x) in weights.iter_mut().zip(x) {
        *w = *w * (Lanes::all(square) + *x * *x).sqrt();
    }
    weights
}

/// Sums of each group.
#[inline(always)]
pub(super) fn sums<const N: usize, const G: usize>(x: &[Lanes<G>; N]) -> [f32; G] {
    x.iter().fold(Lanes::ZERO, |sum, x| sum + *x).0
}

/// The largest element, 0 if none is positive.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most: f32, x| if *x > most { *x } else { most })
}

/// Integers for the scales that were written; where a scale is 0, those of the search stay.
#[inline(always)]
pub(super) fn integers<const N: usize, const G: usize>(
    x: &[Lanes<G>; N],
    fit: &mut Fit<N, G>,
    [scale, below]: [Lanes<G>; 2],
    [least, most]: [f32; 2],
) {
    let none = scale.equals(Lanes::ZERO);
    for (q, x) in fit.q.iter_mut().zip(x) {
        let integer = ((*x + below) / scale).nearest().clamp(least, most) - Lanes::all(least);
        *q = none.select(*q, integer);
    }
}

/// Writes the scales and minima of a block of `Q4_K` or `Q5_K`, and returns its integers.
#[inline(always)]
pub(super) fn block(search: Search, x: &[f32], importance: Option<&[f32]>, b: &mut [u8]) -> [u8; BLOCK_K] {
    let groups = side_by_side::<BLOCK, GROUPS>(x);
    let (mut fit, scales, minima, scale, below);
    if let Some(importance) = importance {
        let weights = weigh(&groups, importance, 2.0 * mean_square(x));
        fit = Search::weighted(search.most).fit(&groups, &weights);
        let sums = sums(&weights);
        (scale, scales) = positive(&fit.scale.0, &sums, 63.0);
        (below, minima) = positive(&fit.below.0, &sums, 63.0);
    } else {
        let square = groups.iter().fold(Lanes::ZERO, |sum, x| sum + *x * *x) / Lanes::all(BLOCK as f32);
        let root = square.sqrt();
        let weights = groups.map(|x| root + x.abs());
        fit = search.fit(&groups, &weights);
        let six_bits = |x: Lanes| {
            let most = largest(&x.0);
            let inverse = if most > 0.0 { 63.0 / most } else { 0.0 };
            (most / 63.0, (Lanes::all(inverse) * x).nearest().clamp(0.0, 63.0).0.map(|q| q as u8))
        };
        (scale, scales) = six_bits(fit.scale);
        (below, minima) = six_bits(fit.below);
    }
    put_scales(std::array::from_fn(|group| [scales[group], minima[group]]), &mut b[4..16]);
    let (d, m) = (put_half(b, 0, scale), put_half(b, 2, below));
    let written = [Lanes::all(d) * Lanes(scales.map(f32::from)), Lanes::all(m) * Lanes(minima.map(f32::from))];
    integers(&groups, &mut fit, written, [0.0, search.most]);
    let mut q = [0; BLOCK_K];
    one_by_one(&fit.q, &mut q);
    q
}

/// Scale and minimum of the group `j` in the 12 packed bytes of `Q4_K` and `Q5_K`.
pub(super) fn scale_and_minimum(j: usize, q: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        ((q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

/// The inverse: the first four groups have whole bytes, whose upper bits hold those of the last four.
#[inline(always)]
fn put_scales(groups: [[u8; 2]; GROUPS], packed: &mut [u8]) {
    let (first, last) = groups.split_at(GROUPS / 2);
    for (j, ([scale, minimum], [later_scale, later_minimum])) in first.iter().zip(last).enumerate() {
        packed[j] = scale | ((later_scale >> 4) << 6);
        packed[j + 4] = minimum | ((later_minimum >> 4) << 6);
        packed[j + 8] = (later_scale & 15) | ((later_minimum & 15) << 4);
    }
}

/// Lower nibbles of groups two by two, as `Q4_K` and `Q5_K` lay them out.
#[inline(always)]
pub(super) fn put_nibbles(q: &[u8; BLOCK_K], bytes: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact_mut(BLOCK).zip(q.chunks_exact(2 * BLOCK)) {
        let (low, high) = q.split_at(BLOCK);
        for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
            *byte = (low & 15) | ((high & 15) << 4);
        }
    }
}

/// Lower two bits of the quarters of each half block in a byte, as `Q2_K` and `Q3_K` lay them out.
#[inline(always)]
pub(super) fn put_two_bits(q: &[u8; BLOCK_K], bytes: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact_mut(BLOCK).zip(q.chunks_exact(4 * BLOCK)) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (0..4).fold(0, |byte, quarter| byte | ((q[BLOCK * quarter + at] & 3) << (2 * quarter)));
        }
    }
}

/// f16 scale and minimum of a block.
pub(super) fn block_scales(b: &[u8]) -> (f32, f32) {
    (half(b, 0), half(b, 2))
}
