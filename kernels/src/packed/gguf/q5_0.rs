//! `Q5_0`: an f16 scale and 32 integers of five bits, centred on 16.

use super::{BLOCK, extreme, fifth_bits, half, inverse, put_five_bits, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
    for (j, q) in b[6..22].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = (f32::from((q & 15) | low_bit) - 16.0) * d;
        y[j + BLOCK / 2] = (f32::from((q >> 4) | high_bit) - 16.0) * d;
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let d = extreme(x) / -16.0;
    let inverse = inverse(d);
    put_half(b, 0, d);
    let q = std::array::from_fn(|j| ((x[j] * inverse + 16.5) as u8).min(31));
    let high = put_five_bits(q, &mut b[6..22]);
    b[2..6].copy_from_slice(&high.to_le_bytes());
}
