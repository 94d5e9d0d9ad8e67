//! `Q5_1`: f16 scale and minimum, and 32 integers of five bits.

use super::{BLOCK, ends, fifth_bits, half, inverse, put_five_bits, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
    for (j, q) in b[8..24].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = f32::from((q & 15) | low_bit) * d + m;
        y[j + BLOCK / 2] = f32::from((q >> 4) | high_bit) * d + m;
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let (least, largest) = ends(x);
    let d = (largest - least) / 31.0;
    let inverse = inverse(d);
    put_half(b, 0, d);
    put_half(b, 2, least);
    let q = std::array::from_fn(|j| (((x[j] - least) * inverse + 0.5) as u8).min(31));
    let high = put_five_bits(q, &mut b[8..24]);
    b[4..8].copy_from_slice(&high.to_le_bytes());
}
