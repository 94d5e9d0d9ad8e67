//! `Q4_0`: an f16 scale and 32 integers of four bits, centred on 8.

use multiversion::multiversion;

use super::eight::{centred, each_fit};
use super::search::symmetric;
use super::{BLOCK, half, put_half, put_nibbles};

/// Integers are centred on this.
const CENTRE: f32 = 8.0;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[2..18]) {
        *low = (f32::from(q & 15) - 8.0) * d;
        *high = (f32::from(q >> 4) - 8.0) * d;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    let plain = |x: &_| centred(x, CENTRE);
    let search = |x: &_, w: &_| symmetric(x, w, CENTRE);
    each_fit::<18>(row, importance, blocks, plain, search, |fit, b| {
        put_half(b, 0, fit.scale);
        put_nibbles(&fit.q, &mut b[2..]);
    });
}
