//! `IQ4_NL` and `IQ4_XS`: indices of four bits into sixteen values, which are closer together near zero.
//!
//! Source: `quantize_row_iq4_nl_impl` of llama.cpp.

use multiversion::multiversion;

use super::k::{mean_square, weigh};
use super::lanes::{LANES, Lanes, nearest, one_by_one, side_by_side};
use super::search::extremes;
use super::{BLOCK, BLOCK_K, each_block, half, put_half, put_nibbles};

/// What an index stands for.
const VALUES: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];
/// Scales that are tried on either side of the first one.
const TRIES: i8 = 7;
/// Scales of `IQ4_XS` are centred on this.
const SCALES_CENTRE: f32 = 32.0;

fn put_values(d: f32, bytes: &[u8], y: &mut [f32]) {
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(bytes) {
        *low = d * VALUES[usize::from(q & 15)];
        *high = d * VALUES[usize::from(q >> 4)];
    }
}

/// `IQ4_NL`: an f16 scale and 32 indices.
pub(super) fn dequantize_nl(b: &[u8], y: &mut [f32]) {
    put_values(half(b, 0), &b[2..18], y);
}

/// `IQ4_XS`: an f16 scale, eight scales of six bits, and 256 indices.
pub(super) fn dequantize_xs(b: &[u8], y: &mut [f32]) {
    let (d, high) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (group, y) in y.chunks_exact_mut(BLOCK).enumerate() {
        let low = (b[4 + group / 2] >> (4 * (group % 2))) & 15;
        let scale = f32::from(u16::from(low) | (((high >> (2 * group)) & 3) << 4)) - SCALES_CENTRE;
        put_values(d * scale, &b[8 + BLOCK / 2 * group..][..BLOCK / 2], y);
    }
}

/// Index and value of the nearest of [`VALUES`], the upper one of two.
#[inline(always)]
fn lookup<const G: usize>(x: Lanes<G>) -> (Lanes<G>, Lanes<G>) {
    let (mut index, mut value) = (Lanes::ZERO, Lanes::all(VALUES[0]));
    for pair in VALUES.windows(2) {
        // Both differences to the values are exact near their middle, so that this is the same.
        let below = x.less(Lanes::all(pair[0].midpoint(pair[1])));
        index += below.select(Lanes::ZERO, Lanes::all(1.0));
        value += below.select(Lanes::ZERO, Lanes::all(pair[1] - pair[0]));
    }
    (index, value)
}

/// The scale of least squared error of each group, among those tried.
#[inline(always)]
fn scales<const G: usize>(x: &[Lanes<G>; BLOCK], w: &[Lanes<G>; BLOCK]) -> Lanes<G> {
    let (extreme, zero) = extremes(x);
    let extreme = zero.select(Lanes::all(1.0), extreme);
    let sums = |inverse: Lanes<G>| {
        let (mut xq, mut q2) = (Lanes::ZERO, Lanes::ZERO);
        for (x, w) in x.iter().zip(w) {
            let (_, q) = lookup(inverse * *x);
            xq += *w * q * *x;
            q2 += *w * q * q;
        }
        (xq, q2)
    };
    let first = Lanes::all(1.0) / (-extreme / Lanes::all(VALUES[0]));
    let (xq, q2) = sums(first);
    let mut scale = Lanes::ZERO.less(q2).select(xq / q2, Lanes::ZERO);
    let mut best = scale * xq;
    for step in -TRIES..=TRIES {
        let (xq, q2) = sums(Lanes::all(f32::from(step) + VALUES[0]) / extreme);
        let better = Lanes::ZERO.less(q2) & (best * q2).less(xq * xq);
        scale = better.select(xq / q2, scale);
        best = better.select(scale * xq, best);
    }
    zero.select(Lanes::ZERO, scale)
}

/// Indices for a scale; those of 0 where it is 0.
#[inline(always)]
fn indices<const G: usize>(x: &[Lanes<G>; BLOCK], scale: Lanes<G>) -> [Lanes<G>; BLOCK] {
    let none = scale.equals(Lanes::ZERO);
    let inverse = none.select(Lanes::ZERO, Lanes::all(1.0) / none.select(Lanes::all(1.0), scale));
    x.map(|x| lookup(inverse * x).0)
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize_nl(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    // Unlike other blocks of 32, whose importance counts with the mean square of a row.
    let together = BLOCK * LANES;
    for (at, (x, blocks)) in row.chunks(together).zip(blocks.chunks_mut(18 * LANES)).enumerate() {
        let groups: [Lanes; BLOCK] = side_by_side(x);
        let weights = match importance {
            Some(importance) => {
                let mut weights = side_by_side::<BLOCK, LANES>(&importance[together * at..][..x.len()]);
                let square = groups.iter().fold(Lanes::ZERO, |sum, x| sum + *x * *x) * Lanes::all(2.0 / BLOCK as f32);
                for (w, x) in weights.iter_mut().zip(&groups) {
                    *w = *w * (square + *x * *x).sqrt();
                }
                weights
            }
            None => groups.map(|x| x * x),
        };
        let scale = scales(&groups, &weights);
        let mut q = [0; BLOCK * LANES];
        one_by_one(&indices(&groups, scale), &mut q);
        for ((b, q), scale) in blocks.chunks_exact_mut(18).zip(q.as_chunks().0).zip(scale.0) {
            put_half(b, 0, scale);
            put_nibbles(q, &mut b[2..]);
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize_xs(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 136>(row, importance, blocks, |x, importance, b| {
        let groups: [Lanes; BLOCK] = side_by_side(x);
        let weights = match importance {
            Some(importance) => weigh(&groups, importance, 2.0 * mean_square(x)),
            None => groups.map(|x| x * x),
        };
        let fits = scales(&groups, &weights);
        let d = -super::extreme(&fits.0) / SCALES_CENTRE;
        let inverse = super::inverse(d);
        let scales = fits.0.map(|fit| nearest(inverse * fit).clamp(-SCALES_CENTRE, SCALES_CENTRE - 1.0));
        let mut q = [0; BLOCK_K];
        one_by_one(&indices(&groups, Lanes::all(d) * Lanes(scales)), &mut q);
        put_half(b, 0, d);
        b[2..8].fill(0);
        for (group, scale) in scales.into_iter().enumerate() {
            let scale = (scale + SCALES_CENTRE) as u8;
            b[2 + group / 4] |= (scale >> 4) << (2 * (group % 4));
            b[4 + group / 2] |= (scale & 15) << (4 * (group % 2));
        }
        for (bytes, q) in b[8..].chunks_exact_mut(BLOCK / 2).zip(q.as_chunks().0) {
            put_nibbles(q, bytes);
        }
    });
}
