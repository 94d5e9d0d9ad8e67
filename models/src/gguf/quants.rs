//! The storage types of ggml, and how their blocks are decoded.
//!
//! Source: `ggml-quants.c` of llama.cpp, the `dequantize_row_*` functions.

use half::{bf16, f16};

/// A storage type of ggml.
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
}

impl GgmlType {
    /// The type with that number in GGUF files.
    ///
    /// # Errors
    /// The number, if no supported type has it.
    pub fn from_id(id: u32) -> Result<Self, u32> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            other => return Err(other),
        })
    }

    /// The number in GGUF files.
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
            Self::BF16 => 30,
        }
    }

    /// The number of elements in a block.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The number of bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Decodes blocks to f32. Bytes after the last complete block are ignored.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let block: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => |b, y| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => |b, y| y[0] = half(b, 0),
            Self::BF16 => |b, y| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q2K => q2_k,
            Self::Q3K => q3_k,
            Self::Q4K => q4_k,
            Self::Q5K => q5_k,
            Self::Q6K => q6_k,
        };
        let blocks = bytes.chunks_exact(self.block_bytes());
        let mut values = vec![0.0; blocks.len() * self.block_elements()];
        for (bytes, values) in blocks.zip(values.chunks_exact_mut(self.block_elements())) {
            block(bytes, values);
        }
        values
    }
}

/// The f16 at a byte offset.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q4_0(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (j, q) in b[2..18].iter().enumerate() {
        y[j] = (f32::from(q & 15) - 8.0) * d;
        y[j + 16] = (f32::from(q >> 4) - 8.0) * d;
    }
}

fn q4_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (j, q) in b[4..20].iter().enumerate() {
        y[j] = f32::from(q & 15) * d + m;
        y[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of the elements `j` and `j + 16`.
fn fifth_bits(high: u32, j: usize) -> (u8, u8) {
    ((((high >> j) << 4) & 16) as u8, ((high >> (j + 12)) & 16) as u8)
}

fn q5_0(b: &[u8], y: &mut [f32]) {
    let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
    for (j, q) in b[6..22].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = (f32::from((q & 15) | low_bit) - 16.0) * d;
        y[j + 16] = (f32::from((q >> 4) | high_bit) - 16.0) * d;
    }
}

fn q5_1(b: &[u8], y: &mut [f32]) {
    let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
    for (j, q) in b[8..24].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        y[j] = f32::from((q & 15) | low_bit) * d + m;
        y[j + 16] = f32::from((q >> 4) | high_bit) * d + m;
    }
}

fn q8_0(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (value, q) in y.iter_mut().zip(&b[2..34]) {
        *value = f32::from(*q as i8) * d;
    }
}

fn q2_k(b: &[u8], y: &mut [f32]) {
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

fn q3_k(b: &[u8], y: &mut [f32]) {
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

/// The scale and the minimum of group `j` in the 12 packed bytes of `Q4_K` and `Q5_K`.
fn scale_and_minimum(j: usize, q: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        ((q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(b: &[u8], y: &mut [f32]) {
    let (d, minimum, scales, qs) = (half(b, 0), half(b, 2), &b[4..16], &b[16..144]);
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(group, scales);
        let (d, m) = (d * scale, minimum * least);
        for (value, q) in values.iter_mut().zip(&qs[group / 2 * 32..]) {
            let q = if group % 2 == 0 { q & 15 } else { q >> 4 };
            *value = d * f32::from(q) - m;
        }
    }
}

fn q5_k(b: &[u8], y: &mut [f32]) {
    let (d, minimum, scales, high, qs) = (half(b, 0), half(b, 2), &b[4..16], &b[16..48], &b[48..176]);
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(group, scales);
        let (d, m) = (d * scale, minimum * least);
        for ((value, q), high) in values.iter_mut().zip(&qs[group / 2 * 32..]).zip(high) {
            let q = if group % 2 == 0 { q & 15 } else { q >> 4 };
            *value = d * f32::from(q | (((high >> group) & 1) << 4)) - m;
        }
    }
}

fn q6_k(b: &[u8], y: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
    for (group, values) in y.chunks_exact_mut(32).enumerate() {
        let (n, quarter) = (group / 4, group % 4);
        for (l, value) in values.iter_mut().enumerate() {
            let byte = low[64 * n + 32 * (quarter % 2) + l];
            let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
            let top = (high[32 * n + l] >> (2 * quarter)) & 3;
            let scale = f32::from(scales[8 * n + 2 * quarter + l / 16] as i8);
            *value = d * scale * (f32::from(nibble | (top << 4)) - 32.0);
        }
    }
}
