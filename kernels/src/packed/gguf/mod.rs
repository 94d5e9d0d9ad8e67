//! The storage types of ggml: their blocks from and to f32.
//!
//! Source: `ggml-quants.c` of llama.cpp, the functions `quantize_row_*_ref` and `dequantize_row_*`.

mod k;
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

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Element, PackError, TASK, check};

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
}

/// Elements of a block of most types.
const BLOCK: usize = 32;
/// Elements of a block of the K types.
const BLOCK_K: usize = 256;

impl GgmlType {
    /// All of them.
    pub const ALL: [Self; 13] = [
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
            Self::BF16 => 30,
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
        }
    }

    /// Elements of a block.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => BLOCK_K,
        }
    }

    /// Bytes of a block.
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

    /// Whether a block is more than one element.
    pub fn is_packed(self) -> bool {
        self.block_elements() > 1
    }

    /// Byte offsets of a block's f16 scales.
    fn scales(self) -> &'static [usize] {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => &[],
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => &[0],
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
        };
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (bytes, values) in blocks.zip(values.chunks_exact_mut(self.block_elements())) {
            block(bytes, values);
        }
    }

    /// Blocks of a row-major matrix, to the bit what `ggml_quantize_chunk` of llama.cpp gives without an importance matrix.
    ///
    /// # Errors
    /// [`PackError::Group`] when blocks do not divide a row, [`PackError::Length`] when there are not `dims` elements,
    /// [`PackError::NotFinite`] when one is no finite number, [`PackError::Range`] when a scale is beyond f16, and
    /// [`PackError::Unwritable`] for the types that are only read.
    pub fn quantize<T: Element>(self, tensor: &str, values: &[T], dims: [usize; 2]) -> Result<Vec<u8>, PackError> {
        let block: fn(&[f32], &mut [u8]) = match self {
            Self::Q4_0 => q4_0::quantize,
            Self::Q4_1 => q4_1::quantize,
            Self::Q5_0 => q5_0::quantize,
            Self::Q5_1 => q5_1::quantize,
            Self::Q8_0 => q8_0::quantize,
            Self::Q4K => q4_k::quantize,
            Self::Q5K => q5_k::quantize,
            Self::Q6K => q6_k::quantize,
            Self::F32 | Self::F16 | Self::BF16 | Self::Q2K | Self::Q3K => {
                return Err(PackError::Unwritable { tensor: tensor.to_owned(), format: self.name() });
            }
        };
        let elements = self.block_elements();
        if !dims[1].is_multiple_of(elements) {
            return Err(PackError::Group { tensor: tensor.to_owned(), columns: dims[1], group: elements });
        }
        check(tensor, values, dims)?;
        let mut bytes = vec![0; values.len() / elements * self.block_bytes()];
        let each = TASK / elements;
        let tasks = bytes.par_chunks_mut(each * self.block_bytes()).zip(values.par_chunks(each * elements));
        let fits = tasks.map(|(bytes, values)| {
            let mut row = [0.0; BLOCK_K];
            let row = &mut row[..elements];
            let mut fits = true;
            for (bytes, values) in bytes.chunks_exact_mut(self.block_bytes()).zip(values.chunks_exact(elements)) {
                row.iter_mut().zip(values).for_each(|(row, value)| *row = value.value());
                block(row, bytes);
                fits &= self.scales().iter().all(|at| half(bytes, *at).is_finite());
            }
            fits
        });
        if fits.reduce(|| true, |a, b| a && b) {
            Ok(bytes)
        } else {
            Err(PackError::Range { tensor: tensor.to_owned(), format: self.name() })
        }
    }
}

/// A matrix in the blocks of a GGUF file, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufBlocks {
    kind: GgmlType,
    dims: [usize; 2],
    bytes: Vec<u8>,
}

impl GgufBlocks {
    /// Quantises a row-major matrix, see [`GgmlType::quantize`].
    ///
    /// # Errors
    /// Those of [`GgmlType::quantize`].
    pub fn quantize<T: Element>(tensor: &str, values: &[T], dims: [usize; 2], kind: GgmlType) -> Result<Self, PackError> {
        Ok(Self { kind, dims, bytes: kind.quantize(tensor, values, dims)? })
    }

    /// Takes over what a file has.
    ///
    /// # Errors
    /// [`PackError::Group`] when blocks do not divide a row, [`PackError::Length`] when the bytes are not those of `dims`,
    /// [`PackError::Scale`] when a block's scale is no finite number.
    pub fn new(tensor: &str, dims: [usize; 2], kind: GgmlType, bytes: Vec<u8>) -> Result<Self, PackError> {
        let tensor = || tensor.to_owned();
        let group = kind.block_elements();
        if !dims[1].is_multiple_of(group) {
            return Err(PackError::Group { tensor: tensor(), columns: dims[1], group });
        }
        let expected = (dims[1] / group).saturating_mul(dims[0]).saturating_mul(kind.block_bytes());
        if expected != bytes.len() {
            return Err(PackError::Length { tensor: tensor(), part: "the packed weight", expected, found: bytes.len() });
        }
        let scales = |block: &[u8]| kind.scales().iter().map(|at| half(block, *at)).find(|scale| !scale.is_finite());
        match bytes.par_chunks(kind.block_bytes()).with_min_len(1 << 12).find_map_first(scales) {
            Some(value) => Err(PackError::Scale { tensor: tensor(), part: "the packed weight", value }),
            None => Ok(Self { kind, dims, bytes }),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// The storage type.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// Its blocks.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements from `start` on, as many as `values` holds; whole blocks.
    pub(super) fn dequantize_into(&self, start: usize, values: &mut [f32]) {
        let block = self.kind.block_elements();
        debug_assert!(start.is_multiple_of(block) && values.len().is_multiple_of(block));
        self.kind.dequantize_into(&self.bytes[start / block * self.kind.block_bytes()..], values);
    }
}

/// The f16 at a byte offset.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Puts an f16 at a byte offset; returns what it holds of the value.
fn put_half(bytes: &mut [u8], at: usize, value: f32) -> f32 {
    let value = f16::from_f32(value);
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    value.to_f32()
}

/// `1 / scale`, 0 for 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The element of largest magnitude, the first of several.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |extreme: f32, value| if extreme.abs() < value.abs() { *value } else { extreme })
}

/// Least and largest element.
fn ends(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, f32::MIN), |(least, largest), value| {
        (if *value < least { *value } else { least }, if *value > largest { *value } else { largest })
    })
}

/// The fifth bits of the elements `j` and `j + 16`.
fn fifth_bits(high: u32, j: usize) -> (u8, u8) {
    ((((high >> j) << 4) & 16) as u8, ((high >> (j + 12)) & 16) as u8)
}

/// Five-bit integers: the lower four of `j` and `j + 16` in a byte, the fifth ones of all together.
fn put_five_bits(q: [u8; BLOCK], low: &mut [u8]) -> u32 {
    let mut high = 0;
    for (j, low) in low.iter_mut().enumerate() {
        let (a, b) = (q[j], q[j + BLOCK / 2]);
        *low = (a & 15) | ((b & 15) << 4);
        high |= (u32::from(a >> 4) << j) | (u32::from(b >> 4) << (j + BLOCK / 2));
    }
    high
}
