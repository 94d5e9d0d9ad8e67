//! `MXFP4`: floats of four bits (E2M1), 32 of which share a power of two. Only read.
//!
//! Source: OCP Microscaling Formats (MX) 1.0.

use super::BLOCK;

/// Twice what the bits stand for.
const DOUBLED: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    // Half of 2^(e - 127); the two smallest are subnormal.
    let d = f32::from_bits(match u32::from(b[0]) {
        e @ (0 | 1) => 0x0020_0000 << e,
        e => (e - 1) << 23,
    });
    let (low, high) = y.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&b[1..17]) {
        *low = d * DOUBLED[usize::from(q & 15)];
        *high = d * DOUBLED[usize::from(q >> 4)];
    }
}
