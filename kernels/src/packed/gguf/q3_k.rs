//! `Q3_K`: 16 groups of 16 integers of three bits, with scales of six bits. Only read.

use super::half;

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let (mask, qs, packed, d) = (&b[..32], &b[32..96], &b[96..108], half(b, 108));
    for (group, values) in y.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = d * (f32::from(low | (high << 4)) - 32.0);
        let (n, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
        let bit = 1u8 << (group / 2);
        for (l, value) in values.iter_mut().enumerate() {
            let q = f32::from((qs[32 * n + 16 * side + l] >> shift) & 3);
            let below = if mask[16 * side + l] & bit == 0 { 4.0 } else { 0.0 };
            *value = scale * (q - below);
        }
    }
}
