//! `Q4_1`: f16 scale and minimum, and 32 integers of four bits.

use super::{BLOCK, ends, half, inverse, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[4..20]) {
        *low = f32::from(q & 15) * d + m;
        *high = f32::from(q >> 4) * d + m;
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let (least, largest) = ends(x);
    let d = (largest - least) / 15.0;
    let inverse = inverse(d);
    put_half(b, 0, d);
    put_half(b, 2, least);
    let q = |x: f32| (((x - least) * inverse + 0.5) as u8).min(15);
    for (j, byte) in b[4..20].iter_mut().enumerate() {
        *byte = q(x[j]) | (q(x[j + BLOCK / 2]) << 4);
    }
}
