//! `Q5_K`: eight groups of 32 integers of five bits, with scales and minima of six bits.

use multiversion::multiversion;

use super::k::{block, block_scales, put_nibbles, scale_and_minimum};
use super::search::Search;
use super::{BLOCK_K, each_block};

const SEARCH: Search = Search { most: 31.0, first: -0.5, step: 0.1, steps: 15, absolute: false };

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

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 176>(row, importance, blocks, |x, importance, b| {
        let q = block(SEARCH, x, importance, b);
        for (at, high) in b[16..48].iter_mut().enumerate() {
            *high = (0..8).fold(0, |high, group| high | ((q[32 * group + at] >> 4) << group));
        }
        put_nibbles(&q, &mut b[48..]);
    });
}
