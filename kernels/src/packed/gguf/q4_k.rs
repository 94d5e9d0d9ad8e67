//! `Q4_K`: eight groups of 32 integers of four bits, with scales and minima of six bits.

use multiversion::multiversion;

use super::k::{block, block_scales, put_nibbles, scale_and_minimum};
use super::search::Search;
use super::{BLOCK_K, each_block};

const SEARCH: Search = Search { most: 15.0, first: -1.0, step: 0.1, steps: 20, absolute: false };

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

#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn quantize(row: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    each_block::<BLOCK_K, 144>(row, importance, blocks, |x, importance, b| {
        let q = block(SEARCH, x, importance, b);
        put_nibbles(&q, &mut b[16..]);
    });
}
