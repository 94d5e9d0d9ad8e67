//! `Q8_0`: an f16 scale and 32 signed bytes.

use multiversion::multiversion;

use super::{BLOCK, each_block, half, inverse, put_half};

pub(super) fn dequantize(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (value, q) in y.iter_mut().zip(&b[2..34]) {
        *value = f32::from(*q as i8) * d;
    }
}

/// As in llama.cpp, the importance of columns makes no difference.
pub(super) fn quantize(row: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    encode(row, blocks);
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn encode(row: &[f32], blocks: &mut [u8]) {
    each_block::<BLOCK, 34>(row, None, blocks, |x, _, b| {
        let d = x.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 127.0;
        let inverse = inverse(d);
        put_half(b, 0, d);
        for (byte, value) in b[2..].iter_mut().zip(x) {
            *byte = (value * inverse).round() as i8 as u8;
        }
    });
}
