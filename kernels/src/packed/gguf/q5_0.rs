//! `Q5_0`: an f16 scale and 32 integers of five bits, centred on 16.

use multiversion::multiversion;

use super::eight::{centred, each_fit};
use super::search::symmetric;
use super::{BLOCK, fifth_bits, half, put_five_bits, put_half};

/// Integers are centred on this.
const CENTRE: f32 = 16.0;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
    for (j, q) in b[6..22].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = (f32::from((q & 15) | low_bit) - 16.0) * d;
        y[j + BLOCK / 2] = (f32::from((q >> 4) | high_bit) - 16.0) * d;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    let plain = |x: &_| centred(x, CENTRE);
    let search = |x: &_, w: &_| symmetric(x, w, CENTRE);
    each_fit::<22>(row, importance, blocks, plain, search, |fit, b| {
        put_half(b, 0, fit.scale);
        put_five_bits(&fit.q, &mut b[2..]);
    });
}
