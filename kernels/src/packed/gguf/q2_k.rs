//! `Q2_K`: 16 groups of 16 integers of two bits, with scales and minima of four bits. Only read.

use super::half;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, minimum) = (half(b, 80), half(b, 82));
    for (group, values) in y.chunks_exact_mut(16).enumerate() {
        let scale = scales[group];
        let (dl, ml) = (d * f32::from(scale & 15), minimum * f32::from(scale >> 4));
        let (n, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
        let q = &qs[32 * n + 16 * side..][..16];
        for (value, q) in values.iter_mut().zip(q) {
            *value = dl * f32::from((q >> shift) & 3) - ml;
        }
    }
}
