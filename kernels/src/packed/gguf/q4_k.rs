//! `Q4_K`: eight groups of 32 integers of four bits, with scales and minima of six bits.

use super::k::{Search, block_scales, put_nibbles, scale_and_minimum};

const SEARCH: Search = Search { most: 15, first: -1.0, steps: 20 };

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let ((d, minimum), scales, qs) = (block_scales(b), &b[4..16], &b[16..144]);
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(group, scales);
        let (d, m) = (d * scale, minimum * least);
        let shift = group % 2 * 4;
        for (value, q) in values.iter_mut().zip(&qs[group / 2 * 32..]) {
            *value = d * f32::from((q >> shift) & 15) - m;
        }
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let q = SEARCH.block(x, b);
    put_nibbles(&q, &mut b[16..144]);
}
