//! `Q4_1`: f16 scale and minimum, and 32 integers of four bits.

use multiversion::multiversion;

use super::eight::{each_fit, ranged};
use super::search::Search;
use super::{BLOCK, half, put_half, put_nibbles};

/// Largest integer.
const MOST: f32 = 15.0;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[4..20]) {
        *low = f32::from(q & 15) * d + m;
        *high = f32::from(q >> 4) * d + m;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    let plain = |x: &_| ranged(x, MOST);
    let search = |x: &_, w: &_| Search::weighted(MOST).fit(x, w);
    each_fit::<20>(row, importance, blocks, plain, search, |fit, b| {
        put_half(b, 0, fit.scale);
        put_half(b, 2, -fit.below);
        put_nibbles(&fit.q, &mut b[4..]);
    });
}
