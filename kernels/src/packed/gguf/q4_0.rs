//! `Q4_0`: an f16 scale and 32 integers of four bits, centred on 8.

use super::{BLOCK, extreme, half, inverse, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[2..18]) {
        *low = (f32::from(q & 15) - 8.0) * d;
        *high = (f32::from(q >> 4) - 8.0) * d;
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let d = extreme(x) / -8.0;
    let inverse = inverse(d);
    put_half(b, 0, d);
    let q = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    for (j, byte) in b[2..18].iter_mut().enumerate() {
        *byte = q(x[j]) | (q(x[j + BLOCK / 2]) << 4);
    }
}
