//! Writes GGUF files, which llama.cpp, Ollama and LM Studio open.
//!
//! Each family declares which tensors a file has, their names and the order of their rows (`burnish_models::families`).
//! Source: `ggml/docs/gguf.md` and `conversion/` of llama.cpp.

mod metadata;
mod quants;
mod tokenizer;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use burnish_models::checkpoint::is_ignored;
use burnish_models::gguf::{GgmlType, halves_interleaved, keys};
use burnish_models::part::{DeclaredTensor, Role, RowOrder, declared_tensors};
use burnish_models::rope::inverse_frequencies;
use burnish_models::{Checkpoint, FloatType, ModelConfig, Pretrained, RopeScaling, RotaryConfig};

use crate::error::{ExportError, Result};
use crate::report::ExportReport;
use crate::{fit, target};
use writer::{PlannedTensor, write_header};

/// How the matrices of a GGUF file are stored; vectors are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// As floats.
    Float(FloatType),
    /// 8 bits per element, with one f16 scale per block of 32.
    Q8_0,
}

impl Default for GgufType {
    fn default() -> Self {
        Self::Float(FloatType::F16)
    }
}

impl GgufType {
    fn ggml(self) -> GgmlType {
        match self {
            Self::Float(FloatType::F32) => GgmlType::F32,
            Self::Float(FloatType::F16) => GgmlType::F16,
            Self::Float(FloatType::BF16) => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }

    /// `general.file_type`, llama.cpp's `llama_ftype`.
    fn file_type(self) -> u64 {
        match self {
            Self::Float(FloatType::F32) => 0,
            Self::Float(FloatType::F16) => 1,
            Self::Q8_0 => 7,
            Self::Float(FloatType::BF16) => 32,
        }
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(float) => float.fmt(f),
            Self::Q8_0 => f.write_str("q8_0"),
        }
    }
}

impl std::str::FromStr for GgufType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "q8_0" => Ok(Self::Q8_0),
            float => {
                float.parse().map(Self::Float).map_err(|_: String| format!("expected f32, f16, bf16 or q8_0, got `{float}`"))
            }
        }
    }
}

/// Options of [`export_gguf`].
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufOptions {
    /// How the matrices are stored.
    pub kind: GgufType,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}

/// Writes a model as one GGUF file, with its tokenizer and chat templates.
///
/// `weights` are those of `model`, or the same with an adapter merged into them. Vectors are stored as F32. In a `Q8_0` file, a
/// matrix whose rows are not a multiple of 32 is stored as F16, with a note in the report.
///
/// # Errors
/// [`ExportError::Exists`] or [`ExportError::Occupied`] if the target must not be replaced. [`ExportError::Unsupported`] if
/// llama.cpp has no equivalent of the tokenizer or of a key of the configuration, or if a tensor has no name in GGUF files. An
/// error if a tensor is missing, has another shape than the configuration says, or is outside the range of f16, or if the file
/// can't be written. The target is then unchanged.
pub fn export_gguf(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &GgufOptions,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let mut metadata = metadata::of_model(model, options.kind.file_type(), &mut report)?;
    tokenizer::add(&mut metadata, model, &mut report)?;
    let factors = rope_factors(&model.config);
    let mut tensors = Vec::new();
    for tensor in declared(&model.config, weights)? {
        let shape = weights.shape(&tensor.name).unwrap_or_default();
        tensors.push(plan(tensor.gguf.clone(), Some(tensor), shape, options.kind, &mut report));
    }
    for (name, factors) in &factors {
        tensors.push(plan((*name).to_owned(), None, vec![factors.len()], GgufType::Float(FloatType::F32), &mut report));
    }
    let inputs = target::inputs_of(model, weights);
    report.bytes = target::write_file(target, options.overwrite, &inputs, b"GGUF", |file| {
        write_header(file, &metadata, &tensors)?;
        for tensor in &tensors {
            let values = match &tensor.source {
                Some(declared) => read(weights, declared, &model.config)?,
                None => factors.get(tensor.name.as_str()).cloned().unwrap_or_default(),
            };
            let columns = tensor.shape.last().copied().unwrap_or(1);
            file.put(&quants::encode(tensor.kind, &tensor.name, &values, columns)?)?;
            file.align(writer::ALIGNMENT)?;
        }
        Ok(())
    })?;
    Ok(report)
}

/// The tensors of the file: exactly those that the family declares, because llama.cpp would ignore any other.
fn declared(config: &ModelConfig, weights: &dyn Checkpoint) -> Result<Vec<DeclaredTensor>> {
    let mut tensors = declared_tensors(config);
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let stored: BTreeSet<String> = weights.names().into_iter().filter(|name| !is_ignored(name)).collect();
    let unnamed = stored.iter().filter(|name| !known.contains(name.as_str()));
    let problems: Vec<String> = unnamed.map(|name| format!("`{name}` has no name in GGUF files")).collect();
    if !problems.is_empty() {
        let kind = config.family.gguf.name;
        return Err(ExportError::unsupported(format!("can't be written as a `{kind}` GGUF:\n  {}", problems.join("\n  "))));
    }
    fit::check(config, weights)?;
    tensors.sort_by_key(order);
    Ok(tensors)
}

/// Decides how a tensor is stored, and counts it in the report.
fn plan(
    name: String,
    source: Option<DeclaredTensor>,
    shape: Vec<usize>,
    kind: GgufType,
    report: &mut ExportReport,
) -> PlannedTensor {
    let mut stored = if shape.len() < 2 { GgmlType::F32 } else { kind.ggml() };
    if !shape.last().copied().unwrap_or(1).is_multiple_of(stored.block_elements()) {
        report.notes.push(format!("`{name}`, {shape:?}, is stored as F16: its rows are not a multiple of 32"));
        stored = GgmlType::F16;
    }
    *report.tensors.entry(format!("{stored:?}")).or_default() += 1;
    PlannedTensor { name, source, shape, kind: stored }
}

/// The order in which converters write the sections of a model.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Embedding,
    Block(usize),
    Output,
}

fn order(tensor: &DeclaredTensor) -> (Section, String) {
    let section = match tensor.layer {
        Some(block) => Section::Block(block),
        None if tensor.part.role == Role::Embedding => Section::Embedding,
        None => Section::Output,
    };
    (section, tensor.name.clone())
}

/// Reads a tensor as GGUF files store it: with their order of rows, and with the offset added to norms.
fn read(weights: &dyn Checkpoint, tensor: &DeclaredTensor, config: &ModelConfig) -> Result<Vec<f32>> {
    let (name, part) = (&tensor.name, tensor.part);
    let mut values = weights.read_f32(name)?;
    if part.role.is_norm() && config.family.norm_offset != 0.0 {
        for value in &mut values {
            *value += config.family.norm_offset as f32;
        }
    }
    let Some(heads) = part.role.heads(config).filter(|_| part.rows == RowOrder::Interleaved) else { return Ok(values) };
    halves_interleaved(&values, heads * config.head_dim, heads).ok_or_else(|| {
        ExportError::unsupported(format!("`{name}` does not have the rows of {heads} heads of {}", config.head_dim))
    })
}

/// The divisor of each rotary frequency, for models that scale frequencies differently, by the name of the tensor.
fn rope_factors(config: &ModelConfig) -> BTreeMap<&'static str, Vec<f32>> {
    let Some(rotary) = config.rotary.first() else { return BTreeMap::new() };
    let single = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect::<Vec<_>>();
    let of_lengths = |short: &[f64], long: &[f64]| {
        BTreeMap::from([(keys::ROPE_FACTORS_SHORT, single(short)), (keys::ROPE_FACTORS_LONG, single(long))])
    };
    match &rotary.scaling {
        Some(RopeScaling::LongRope { short, long, .. }) => of_lengths(short, long),
        Some(RopeScaling::Factors { factors }) if config.family.gguf.reads.contains(&keys::ROPE_SCALING_ATTENTION) => {
            of_lengths(factors, factors)
        }
        Some(RopeScaling::Factors { factors }) => BTreeMap::from([(keys::ROPE_FREQS, single(factors))]),
        Some(RopeScaling::Llama3 { .. }) => {
            let plain = RotaryConfig { scaling: None, ..rotary.clone() };
            let scaled = inverse_frequencies(config.rotated_elements(), rotary);
            let plain = inverse_frequencies(config.rotated_elements(), &plain);
            let divisors = plain.iter().zip(&scaled).map(|(plain, scaled)| (plain / scaled) as f32);
            BTreeMap::from([(keys::ROPE_FREQS, divisors.collect())])
        }
        Some(RopeScaling::Linear { .. } | RopeScaling::Yarn { .. }) | None => BTreeMap::new(),
    }
}
