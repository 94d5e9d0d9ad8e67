//! `Q5_K`: eight groups of 32 integers of five bits, with scales and minima of six bits.

use super::k::{Search, block_scales, put_nibbles, scale_and_minimum};

const SEARCH: Search = Search { most: 31, first: -0.5, steps: 15 };

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let ((d, minimum), scales, high, qs) = (block_scales(b), &b[4..16], &b[16..48], &b[48..176]);
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(group, scales);
        let (d, m) = (d * scale, minimum * least);
        let shift = group % 2 * 4;
        for ((value, q), high) in values.iter_mut().zip(&qs[group / 2 * 32..]).zip(high) {
            *value = d * f32::from(((q >> shift) & 15) | (((high >> group) & 1) << 4)) - m;
        }
    }
}

pub(super) fn quantize(x: &[f32], b: &mut [u8]) {
    let q = SEARCH.block(x, b);
    for (at, high) in b[16..48].iter_mut().enumerate() {
        *high = (0..8).fold(0, |high, group| high | ((q[32 * group + at] >> 4) << group));
    }
    put_nibbles(&q, &mut b[48..176]);
}
