//! How the matrices of a GGUF file are stored.

use std::fmt;

use burnish_models::FloatType;
use burnish_models::gguf::GgmlType;

use super::importance::ImportanceMatrix;
use super::mixture::{Facts, Mixture, is_quantised, types};

/// How the matrices of a GGUF file are stored; vectors are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// As floats.
    Float(FloatType),
    /// In few bits, by one of llama.cpp's mixtures.
    Quantized(Mixture),
}

/// The storage type of floats.
pub(super) fn of_float(float: FloatType) -> GgmlType {
    match float {
        FloatType::F32 => GgmlType::F32,
        FloatType::F16 => GgmlType::F16,
        FloatType::BF16 => GgmlType::BF16,
    }
}

impl Default for GgufType {
    fn default() -> Self {
        Self::Float(FloatType::F16)
    }
}

impl GgufType {
    /// `general.file_type`, llama.cpp's `llama_ftype`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Float(FloatType::F32) => 0,
            Self::Float(FloatType::F16) => 1,
            Self::Float(FloatType::BF16) => 32,
            Self::Quantized(mixture) => mixture.file_type(),
        }
    }

    /// The type of each tensor, given by its name in the file and its shape; `None` for vectors and norms.
    pub(super) fn types(self, facts: &Facts<'_>, tensors: &[(&str, &[usize])]) -> Vec<Option<GgmlType>> {
        let float = match self {
            Self::Quantized(mixture) => return types(mixture, facts, tensors),
            Self::Float(float) => of_float(float),
        };
        tensors.iter().map(|(name, shape)| is_quantised(name, shape).then_some(float)).collect()
    }

    /// A note on the matrices that have another type because the blocks of the mixture's do not divide their rows.
    pub(super) fn note_on_rows(self, tensors: &[(&str, &[usize])]) -> Option<String> {
        let Self::Quantized(mixture) = self else { return None };
        let block = mixture.default_type().block_elements();
        let columns = |shape: &[usize]| shape.last().copied().unwrap_or(1);
        let others =
            tensors.iter().filter(|(name, shape)| is_quantised(name, shape) && !columns(shape).is_multiple_of(block));
        let others: Vec<_> = others.collect();
        let (name, shape) = others.first()?;
        Some(format!(
            "{} tensors have rows that are not a multiple of {block}, such as `{name}`, {shape:?}: they have types with smaller blocks, \
             or F16, as llama.cpp stores them",
            others.len()
        ))
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(float) => float.fmt(f),
            Self::Quantized(mixture) => mixture.fmt(f),
        }
    }
}

impl std::str::FromStr for GgufType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let float = name.to_ascii_lowercase().parse().map(Self::Float);
        float.or_else(|_: String| {
            let mixture: Result<Mixture, String> = name.parse();
            mixture.map(Self::Quantized).map_err(|reason| reason.replacen("expected ", "expected f32, f16, bf16, ", 1))
        })
    }
}

/// Options of [`export_gguf`](super::export_gguf) and [`quantize_gguf`](super::quantize_gguf).
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufOptions<'a> {
    /// How the matrices are stored.
    pub kind: GgufType,
    /// How much the columns of matrices matter, for fewer errors where they matter most.
    pub importance: Option<&'a ImportanceMatrix>,
    /// The most bytes of tensors in a file: what is larger is written in parts, of which one may have a single larger tensor.
    pub shard_bytes: Option<u64>,
    /// Whether matrices that are in few bits already may be quantised again.
    pub requantize: bool,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}
