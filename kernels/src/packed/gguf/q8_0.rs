//! `Q8_0`: an f16 scale and 32 signed bytes.

use super::{half, inverse, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (value, q) in y.iter_mut().zip(&b[2..34]) {
        *value = f32::from(*q as i8) * d;
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 127.0;
    let inverse = inverse(d);
    put_half(b, 0, d);
    for (byte, value) in b[2..34].iter_mut().zip(x) {
        *byte = (value * inverse).round() as i8 as u8;
    }
}
