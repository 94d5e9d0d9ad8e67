//! The storage types of ggml: their blocks from and to f32.
//!
//! Source: `ggml-quants.c` of llama.cpp, the functions `quantize_row_*_ref` and `dequantize_row_*`.
#![allow(clippy::inline_always, reason = "only what is inlined is compiled for the vector units of its caller")]
#![allow(clippy::float_cmp, reason = "as llama.cpp: only a scale of exactly 0 has no inverse")]

mod blocks;
mod eight;
mod encode;
mod iq4;
mod k;
mod lanes;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

use half::{bf16, f16};
use rayon::prelude::*;

pub use blocks::GgufBlocks;

use super::TASK;

/// A storage type.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    MXFP4,
}

/// Elements of a block of most types.
const BLOCK: usize = 32;
/// Elements of a block of the K types.
const BLOCK_K: usize = 256;

impl GgmlType {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::MXFP4,
    ];

    /// From the number in a file.
    ///
    /// # Errors
    /// The number, when it is none of these.
    pub fn from_id(id: u32) -> Result<Self, u32> {
        Self::ALL.into_iter().find(|kind| kind.id() == id).ok_or(id)
    }

    /// The number in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::IQ4NL => 20,
            Self::IQ4XS => 23,
            Self::BF16 => 30,
            Self::MXFP4 => 39,
        }
    }

    /// The name that llama.cpp prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::IQ4NL => "IQ4_NL",
            Self::IQ4XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
        }
    }

    /// Elements of a block.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4NL | Self::MXFP4 => BLOCK,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::IQ4XS => BLOCK_K,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::IQ4NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::IQ4XS => 136,
            Self::MXFP4 => 17,
        }
    }

    /// Whether a block is more than one element.
    pub fn is_packed(self) -> bool {
        self.block_elements() > 1
    }

    /// Byte offsets of a block's f16 scales.
    fn scales(self) -> &'static [usize] {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::MXFP4 => &[],
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::IQ4NL | Self::IQ4XS => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q2K => &[80, 82],
            Self::Q3K => &[108],
            Self::Q6K => &[208],
        }
    }

    /// Whole blocks as f32; bytes after the last whole block are passed by.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let blocks = bytes.len() / self.block_bytes();
        let mut values = vec![0.0; blocks * self.block_elements()];
        let each = TASK / self.block_elements();
        let tasks = values.par_chunks_mut(each * self.block_elements()).zip(bytes.par_chunks(each * self.block_bytes()));
        tasks.for_each(|(values, bytes)| self.dequantize_into(bytes, values));
        values
    }

    /// As many whole blocks as both have, as f32.
    pub fn dequantize_into(self, bytes: &[u8], values: &mut [f32]) {
        let block: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => |b, y| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => |b, y| y[0] = half(b, 0),
            Self::BF16 => |b, y| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Q4_0 => q4_0::dequantize,
            Self::Q4_1 => q4_1::dequantize,
            Self::Q5_0 => q5_0::dequantize,
            Self::Q5_1 => q5_1::dequantize,
            Self::Q8_0 => q8_0::dequantize,
            Self::Q2K => q2_k::dequantize,
            Self::Q3K => q3_k::dequantize,
            Self::Q4K => q4_k::dequantize,
            Self::Q5K => q5_k::dequantize,
            Self::Q6K => q6_k::dequantize,
            Self::IQ4NL => iq4::dequantize_nl,
            Self::IQ4XS => iq4::dequantize_xs,
            Self::MXFP4 => mxfp4::dequantize,
        };
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (bytes, values) in blocks.zip(values.chunks_exact_mut(self.block_elements())) {
            block(bytes, values);
        }
    }
}

/// Calls `encode` with each block of a row, the importance of its columns, and its bytes.
#[inline(always)]
fn each_block<const ELEMENTS: usize, const BYTES: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
    encode: impl Fn(&[f32], Option<&[f32]>, &mut [u8]),
) {
    for (at, (x, b)) in row.chunks_exact(ELEMENTS).zip(blocks.chunks_exact_mut(BYTES)).enumerate() {
        encode(x, importance.map(|importance| &importance[ELEMENTS * at..][..ELEMENTS]), b);
    }
}

/// The f16 at a byte offset.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Puts an f16 at a byte offset; returns what it holds of the value.
#[inline(always)]
fn put_half(bytes: &mut [u8], at: usize, value: f32) -> f32 {
    let value = f16::from_f32(value);
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    value.to_f32()
}

/// `1 / scale`, 0 for 0.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The element of largest magnitude, the first of several.
#[inline(always)]
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |extreme: f32, value| if extreme.abs() < value.abs() { *value } else { extreme })
}

/// The fifth bits of the elements `j` and `j + 16`.
fn fifth_bits(high: u32, j: usize) -> (u8, u8) {
    ((((high >> j) << 4) & 16) as u8, ((high >> (j + 12)) & 16) as u8)
}

/// Four-bit integers: `j` and `j + 16` of 32 in a byte.
#[inline(always)]
fn put_nibbles(q: &[u8; BLOCK], bytes: &mut [u8]) {
    let (low, high) = q.split_at(BLOCK / 2);
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = (low & 15) | ((high & 15) << 4);
    }
}

/// Five-bit integers: the fifth bits of all together in four bytes, then the lower four as [`put_nibbles`] has them.
#[inline(always)]
fn put_five_bits(q: &[u8; BLOCK], bytes: &mut [u8]) {
    let fifth = q.iter().enumerate().fold(0u32, |fifth, (at, q)| fifth | (u32::from(q >> 4) << at));
    bytes[..4].copy_from_slice(&fifth.to_le_bytes());
    put_nibbles(q, &mut bytes[4..]);
}
