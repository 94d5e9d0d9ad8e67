//! `Q5_1`: f16 scale and minimum, and 32 integers of five bits.

use multiversion::multiversion;

use super::eight::{each_fit, ranged};
use super::search::Search;
use super::{BLOCK, fifth_bits, half, put_five_bits, put_half};

/// Largest integer.
const MOST: f32 = 31.0;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
    for (j, q) in b[8..24].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = f32::from((q & 15) | low_bit) * d + m;
        y[j + BLOCK / 2] = f32::from((q >> 4) | high_bit) * d + m;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    let plain = |x: &_| ranged(x, MOST);
    let search = |x: &_, w: &_| Search::weighted(MOST).fit(x, w);
    each_fit::<24>(row, importance, blocks, plain, search, |fit, b| {
        put_half(b, 0, fit.scale);
        put_half(b, 2, -fit.below);
        put_five_bits(&fit.q, &mut b[4..]);
    });
}
