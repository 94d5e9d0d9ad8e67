//! NF4 as bitsandbytes keeps it: four bits an element, a scale a block of the flattened tensor, and the scales in eight bits
//! where they are quantised again.
//!
//! Source: Dettmers et al. 2023, "QLoRA"; `functional.quantize_4bit` of bitsandbytes 0.50.2.

use rayon::prelude::*;

use super::codebook::{Codebook, DYNAMIC_BLOCK, NF4, SIGNED, nf4};
use super::{Element, PackError, TASK, check};

/// Elements of a block, by default.
pub const BLOCK: usize = 64;

/// Block sizes that bitsandbytes has.
const BLOCKS: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Least divisor of a block; a block of zeros has the scale 0 all the same.
const LEAST: f32 = 1e-38;

/// A matrix in NF4.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4 {
    dims: [usize; 2],
    block: usize,
    /// Two elements a byte, the first in the upper half.
    codes: Vec<u8>,
    absmax: Absmax,
}

/// The largest magnitude of each block, which is its scale.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// As they are.
    Single(Vec<f32>),
    /// In eight bits: `SIGNED[code] · scale + offset`.
    Double(DoubleAbsmax),
}

/// Scales that are quantised again, in blocks of [`DYNAMIC_BLOCK`].
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleAbsmax {
    /// A code a block of the matrix.
    pub codes: Vec<u8>,
    /// The scale of [`DYNAMIC_BLOCK`] codes.
    pub scales: Vec<f32>,
    /// Added to each: their mean.
    pub offset: f32,
}

impl Absmax {
    /// The scale of a block.
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Single(scales) => scales[block],
            Self::Double(double) => {
                SIGNED.values()[usize::from(double.codes[block])] * double.scales[block / DYNAMIC_BLOCK] + double.offset
            }
        }
    }

    /// Of how many blocks these are.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Single(scales) => scales.len(),
            Self::Double(double) => double.codes.len(),
        }
    }
}

impl DoubleAbsmax {
    /// Quantises scales. bitsandbytes' offset is their mean, summed in f32 in an order that depends on its threads; without one, ours
    /// is summed in f64.
    ///
    /// Codes are those of its CPU library; its CUDA kernels differ from it by a step in a code or two of a thousand.
    pub fn quantize(absmax: &[f32], offset: Option<f32>) -> Self {
        let mean = || (absmax.iter().map(|value| f64::from(*value)).sum::<f64>() / absmax.len().max(1) as f64) as f32;
        let offset = offset.unwrap_or_else(mean);
        let apart: Vec<f32> = absmax.iter().map(|value| value - offset).collect();
        let mut codes = vec![0; absmax.len()];
        let blocks = codes.par_chunks_mut(DYNAMIC_BLOCK).zip(apart.par_chunks(DYNAMIC_BLOCK));
        let scales = blocks.map(|(codes, apart)| {
            let scale = SIGNED.quantize(apart, codes, Codebook::nearest_step);
            // Any code stands for 0 there; bitsandbytes leaves the first.
            if scale == 0.0 {
                codes.fill(0);
            }
            scale
        });
        Self { scales: scales.collect(), codes, offset }
    }
}

impl Nf4 {
    /// Quantises a row-major matrix. Blocks run over the flattened matrix, so any shape will do.
    ///
    /// # Errors
    /// [`PackError::Length`] when there are not `dims` elements, [`PackError::NotFinite`] when one is not finite.
    pub fn quantize<T: Element>(tensor: &str, values: &[T], dims: [usize; 2], double: bool) -> Result<Self, PackError> {
        check(tensor, values, dims)?;
        let mut codes = vec![0; values.len().div_ceil(2)];
        let mut absmax = vec![0.0; values.len().div_ceil(BLOCK)];
        let tasks = codes.par_chunks_mut(TASK / 2).zip(absmax.par_chunks_mut(TASK / BLOCK)).zip(values.par_chunks(TASK));
        tasks.for_each(|((codes, absmax), values)| {
            let blocks = codes.chunks_mut(BLOCK / 2).zip(absmax).zip(values.chunks(BLOCK));
            for ((codes, absmax), values) in blocks {
                *absmax = quantize_block(values, codes);
            }
        });
        let absmax = if double { Absmax::Double(DoubleAbsmax::quantize(&absmax, None)) } else { Absmax::Single(absmax) };
        Ok(Self { dims, block: BLOCK, codes, absmax })
    }

    /// Takes over what a checkpoint has.
    ///
    /// # Errors
    /// [`PackError::Setting`] when blocks have a size that bitsandbytes does not know, [`PackError::Length`] when codes or scales
    /// are not those of `dims`, [`PackError::Scale`] when a scale or the offset is not finite.
    pub fn new(tensor: &str, dims: [usize; 2], block: usize, codes: Vec<u8>, absmax: Absmax) -> Result<Self, PackError> {
        let name = || tensor.to_owned();
        if !BLOCKS.contains(&block) {
            let known = "32, 64, 128, 256, 512, 1024, 2048, 4096";
            return Err(PackError::Setting { tensor: name(), what: "a block size of", value: block, known });
        }
        let elements = dims[0].saturating_mul(dims[1]);
        let length = |part, expected, found| {
            let wrong = PackError::Length { tensor: name(), part, expected, found };
            if expected == found { Ok(()) } else { Err(wrong) }
        };
        length("the packed weight", elements.div_ceil(2), codes.len())?;
        let blocks = elements.div_ceil(block);
        length("`absmax`", blocks, absmax.blocks())?;
        let (part, scales) = match &absmax {
            Absmax::Single(scales) => ("`absmax`", scales),
            Absmax::Double(double) => {
                length("`nested_absmax`", blocks.div_ceil(DYNAMIC_BLOCK), double.scales.len())?;
                if !double.offset.is_finite() {
                    return Err(PackError::Scale { tensor: name(), part: "`nested_offset`", value: double.offset });
                }
                ("`nested_absmax`", &double.scales)
            }
        };
        match scales.iter().find(|scale| !scale.is_finite()) {
            Some(value) => Err(PackError::Scale { tensor: name(), part, value: *value }),
            None => Ok(Self { dims, block, codes, absmax }),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// Elements that share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Two elements a byte, the first in the upper half; the last lower half of an odd number of elements stands for 0.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Scales of the blocks.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        let absmax = match &self.absmax {
            Absmax::Single(scales) => 4 * scales.len(),
            Absmax::Double(double) => double.codes.len() + 4 * double.scales.len() + 4,
        };
        self.codes.len() + absmax
    }

    /// The elements from `start` on, as many as `values` holds.
    pub(super) fn dequantize_into(&self, start: usize, values: &mut [f32]) {
        let (mut at, mut rest) = (start, values);
        while !rest.is_empty() {
            let block = at / self.block;
            let (values, after) = rest.split_at_mut(rest.len().min((block + 1) * self.block - at));
            decode(&self.codes, at, self.absmax.get(block), values);
            at += values.len();
            rest = after;
        }
    }
}

/// Codes of a block; returns its scale.
fn quantize_block<T: Element>(values: &[T], codes: &mut [u8]) -> f32 {
    let mut scaled = [0.0f32; BLOCK];
    let scaled = &mut scaled[..values.len()];
    for (scaled, value) in scaled.iter_mut().zip(values) {
        *scaled = value.value();
    }
    let absmax = scaled.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let divisor = absmax.max(LEAST);
    if values.len() == BLOCK {
        let inverse = 1.0 / divisor;
        for value in scaled.iter_mut() {
            *value *= inverse;
        }
    } else {
        // bitsandbytes divides in a block that is cut short, and keeps the divisor as its scale.
        for value in scaled.iter_mut() {
            *value /= divisor;
        }
    }
    let (pairs, last) = scaled.as_chunks::<2>();
    for (code, pair) in codes.iter_mut().zip(pairs) {
        *code = (nf4(pair[0].clamp(-1.0, 1.0)) << 4) | nf4(pair[1].clamp(-1.0, 1.0));
    }
    if let ([value], Some(code)) = (last, codes.last_mut()) {
        *code = (nf4(value.clamp(-1.0, 1.0)) << 4) | nf4(0.0);
    }
    if values.len() == BLOCK { absmax } else { divisor }
}

/// Elements of one block from `start` on.
fn decode(codes: &[u8], start: usize, scale: f32, mut values: &mut [f32]) {
    let value = |code: u8| NF4[usize::from(code & 15)] * scale;
    if start % 2 == 1 {
        let Some((first, rest)) = values.split_first_mut() else { return };
        *first = value(codes[start / 2]);
        values = rest;
    }
    let codes = &codes[start.div_ceil(2)..];
    let (pairs, last) = values.as_chunks_mut::<2>();
    let whole = pairs.len();
    for (pair, code) in pairs.iter_mut().zip(codes) {
        *pair = [value(code >> 4), value(*code)];
    }
    if let [last] = last {
        *last = value(codes[whole] >> 4);
    }
}
