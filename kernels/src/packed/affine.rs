//! Integers of four or eight bits with a scale and a bias a group, as MLX keeps them.
//!
//! Source: `mlx.core.quantize` and `dequantize` of MLX 0.32.4, mode `affine`.

use rayon::prelude::*;

use super::{Element, Floats, PackError, check};

/// Group sizes that MLX has.
const GROUPS: [usize; 3] = [32, 64, 128];

/// Least scale of a group.
const LEAST: f32 = 1e-7;

/// A matrix in groups of integers: `w = scale · q + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    dims: [usize; 2],
    bits: usize,
    group: usize,
    /// The first integer in the lowest bits; rows are whole words.
    words: Vec<u32>,
    scales: Floats,
    biases: Floats,
}

/// Scale, bias and integers of a group.
///
/// The end of larger magnitude is met exactly where an integer stands for it, and with it zero.
fn quantize_group<T: Element>(values: &[T], bits: usize, words: &mut [u32]) -> [f32; 2] {
    let most = ((1u32 << bits) - 1) as f32;
    let ends = (f32::INFINITY, f32::NEG_INFINITY);
    let (least, largest) = values.iter().map(|value| value.value()).fold(ends, |(a, b), x| (a.min(x), b.max(x)));
    let below = least.abs() > largest.abs();
    let step = ((largest - least) / most).max(LEAST);
    let step = if below { step } else { -step };
    let edge = if below { least } else { largest };
    let zero = (edge / step).round_ties_even();
    let (scale, bias) = if zero == 0.0 { (step, 0.0) } else { (edge / zero, edge) };
    for (word, values) in words.iter_mut().zip(values.chunks_exact(32 / bits)) {
        *word = values.iter().rev().fold(0, |word, value| {
            let q = ((value.value() - bias) / scale).round_ties_even().clamp(0.0, most);
            (word << bits) | q as u32
        });
    }
    [scale, bias]
}

/// Whether MLX has these bits and this group, and whether the group divides a row.
fn check_setting(tensor: &str, columns: usize, bits: usize, group: usize) -> Result<(), PackError> {
    let tensor = tensor.to_owned();
    if !matches!(bits, 4 | 8) {
        return Err(PackError::Setting { tensor, what: "a width in bits of", value: bits, known: "4, 8" });
    }
    if !GROUPS.contains(&group) {
        return Err(PackError::Setting { tensor, what: "a group size of", value: group, known: "32, 64, 128" });
    }
    if !columns.is_multiple_of(group) {
        return Err(PackError::Group { tensor, columns, group });
    }
    Ok(())
}

impl Affine {
    /// Quantises a row-major matrix; scales and biases get its dtype.
    ///
    /// # Errors
    /// [`PackError::Setting`] for bits other than 4 and 8 or a group other than 32, 64 and 128, [`PackError::Group`] when it does not
    /// divide a row, [`PackError::Length`] when there are not `dims` elements, [`PackError::NotFinite`] when one is not finite.
    pub fn quantize<T: Element>(
        tensor: &str,
        values: &[T],
        dims: [usize; 2],
        bits: usize,
        group: usize,
    ) -> Result<Self, PackError> {
        check_setting(tensor, dims[1], bits, group)?;
        check(tensor, values, dims)?;
        let mut words = vec![0; values.len() * bits / 32];
        let groups = words.par_chunks_mut(group * bits / 32).zip(values.par_chunks(group));
        // A group alone is too little for a task.
        let ends: Vec<[f32; 2]> =
            groups.with_min_len(64).map(|(words, values)| quantize_group(values, bits, words)).collect();
        let scales = T::floats(ends.iter().map(|ends| ends[0]).collect());
        let biases = T::floats(ends.iter().map(|ends| ends[1]).collect());
        Ok(Self { dims, bits, group, words, scales, biases })
    }

    /// Takes over what a checkpoint has.
    ///
    /// # Errors
    /// As [`Affine::quantize`], and [`PackError::Scale`] when a scale or bias is not finite.
    pub fn new(
        tensor: &str,
        dims: [usize; 2],
        [bits, group]: [usize; 2],
        words: Vec<u32>,
        scales: Floats,
        biases: Floats,
    ) -> Result<Self, PackError> {
        check_setting(tensor, dims[1], bits, group)?;
        let elements = dims[0].saturating_mul(dims[1]);
        let groups = elements / group;
        let lengths = [("`weight`", elements / (32 / bits), words.len()), ("`scales`", groups, scales.len())];
        for (part, expected, found) in lengths.into_iter().chain([("`biases`", groups, biases.len())]) {
            if expected != found {
                return Err(PackError::Length { tensor: tensor.to_owned(), part, expected, found });
            }
        }
        for (part, floats) in [("`scales`", &scales), ("`biases`", &biases)] {
            if let Some(value) = floats.to_f32().into_iter().find(|value| !value.is_finite()) {
                return Err(PackError::Scale { tensor: tensor.to_owned(), part, value });
            }
        }
        Ok(Self { dims, bits, group, words, scales, biases })
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// Of an integer.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Elements that share a scale and a bias.
    pub fn group(&self) -> usize {
        self.group
    }

    /// `[out, in · bits / 32]`, the first integer in the lowest bits.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// `[out, in / group]`.
    pub fn scales(&self) -> &Floats {
        &self.scales
    }

    /// `[out, in / group]`.
    pub fn biases(&self) -> &Floats {
        &self.biases
    }

    /// Bytes of integers, scales and biases.
    pub fn bytes(&self) -> usize {
        4 * self.words.len() + self.scales.bytes() + self.biases.bytes()
    }

    /// All of it as `mlx.core.dequantize` gives it: in the dtype of the scales, which the product and the sum are both rounded to.
    /// Products with the packed matrix take `scale · q + bias` in f32.
    pub fn dequantize_rounded(&self) -> Floats {
        let mut values = vec![0.0; self.dims[0] * self.dims[1]];
        let round = |value| self.scales.round(value);
        let groups = values.par_chunks_mut(self.group).enumerate().with_min_len(64);
        groups.for_each(|(group, values)| {
            let (scale, bias) = (self.scales.get(group), self.biases.get(group));
            self.integers(group * self.group, values, |q| round(round(scale * q) + bias));
        });
        self.scales.alike(values)
    }

    /// The elements from `start` on, as many as `values` holds.
    pub(super) fn dequantize_into(&self, start: usize, values: &mut [f32]) {
        let (mut at, mut rest) = (start, values);
        while !rest.is_empty() {
            let group = at / self.group;
            let (values, after) = rest.split_at_mut(rest.len().min((group + 1) * self.group - at));
            let (scale, bias) = (self.scales.get(group), self.biases.get(group));
            self.integers(at, values, |q| scale * q + bias);
            at += values.len();
            rest = after;
        }
    }

    /// What a function makes of the integers from `start` on.
    fn integers(&self, start: usize, values: &mut [f32], element: impl Fn(f32) -> f32) {
        let (words, each, most) = (&self.words, 32 / self.bits, (1u32 << self.bits) - 1);
        if start.is_multiple_of(each) && values.len().is_multiple_of(each) {
            for (values, word) in values.chunks_exact_mut(each).zip(&words[start / each..]) {
                for (at, value) in values.iter_mut().enumerate() {
                    *value = element(((word >> (at * self.bits)) & most) as f32);
                }
            }
            return;
        }
        for (at, value) in (start..).zip(values) {
            *value = element(((words[at / each] >> (at % each * self.bits)) & most) as f32);
        }
    }
}
