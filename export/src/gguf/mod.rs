//! GGUF files that llama.cpp, Ollama and LM Studio open.
//!
//! Which tensors a file has, their names and the order of their rows, each family declares
//! (`burnish_models::families`). Source: `ggml/docs/gguf.md` and `conversion/` of llama.cpp.

mod metadata;
mod quants;
mod tokenizer;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;

use burnish_models::checkpoint::is_ignored;
use burnish_models::gguf::{GgmlType, Metadata, Value, halves_interleaved, keys};
use burnish_models::part::{DeclaredTensor, Role, RowOrder, declared_tensors};
use burnish_models::rope::inverse_frequencies;
use burnish_models::{Checkpoint, ModelConfig, Pretrained, RopeScaling, RotaryConfig};

use crate::error::{ExportError, Result};
use crate::report::ExportReport;
use crate::{fit, place};
use writer::{PlannedTensor, write_header};

/// Storage of the matrices; vectors are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GgufType {
    /// 32 bits.
    F32,
    /// IEEE 16 bits.
    #[default]
    F16,
    /// The upper 16 bits of an f32.
    BF16,
    /// 8 bits, a scale a block of 32.
    Q8_0,
}

impl GgufType {
    fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }

    /// `general.file_type`, llama.cpp's `llama_ftype`.
    fn file_type(self) -> u64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::BF16 => 32,
        }
    }
}

impl std::str::FromStr for GgufType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::BF16),
            "q8_0" => Ok(Self::Q8_0),
            other => Err(format!("`{other}` is none of f32, f16, bf16, q8_0")),
        }
    }
}

/// How the file is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufOptions {
    /// Storage of the matrices.
    pub kind: GgufType,
    /// Replace what is there.
    pub overwrite: bool,
}

/// Writes a model as one GGUF file.
///
/// # Errors
/// When the target exists, the tokenizer or something of the configuration has no counterpart in llama.cpp, a tensor has no
/// GGUF name, is missing or has another shape, a weight is beyond f16, or the disk refuses; nothing is left then.
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
    if let Some(factors) = &factors {
        let name = keys::ROPE_FREQS.to_owned();
        tensors.push(plan(name, None, vec![factors.len()], GgufType::F32, &mut report));
    }
    let inputs = place::inputs_of(model, weights);
    report.bytes = place::file(target, options.overwrite, &inputs, b"GGUF", |file| {
        write_header(file, &metadata, &tensors)?;
        for tensor in &tensors {
            let values = match &tensor.source {
                Some(declared) => read(weights, declared, &model.config)?,
                None => factors.clone().unwrap_or_default(),
            };
            file.put(&quants::encode(tensor.kind, &tensor.name, &values)?)?;
            file.align(writer::ALIGNMENT)?;
        }
        Ok(())
    })?;
    Ok(report)
}

/// The tensors of the file: all that the family declares and none beside, for llama.cpp would compute without those.
fn declared(config: &ModelConfig, weights: &dyn Checkpoint) -> Result<Vec<DeclaredTensor>> {
    let mut tensors = declared_tensors(config);
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let stored: BTreeSet<String> = weights.names().into_iter().filter(|name| !is_ignored(name)).collect();
    let nameless = stored.iter().filter(|name| !known.contains(name.as_str()));
    let problems: Vec<String> = nameless.map(|name| format!("`{name}` has no name in GGUF files")).collect();
    if !problems.is_empty() {
        let kind = config.family.gguf.name;
        return Err(ExportError::unsupported(format!("not a `{kind}` GGUF:\n  {}", problems.join("\n  "))));
    }
    fit::check(config, weights)?;
    tensors.sort_by_key(order);
    Ok(tensors)
}

fn plan(
    name: String,
    source: Option<DeclaredTensor>,
    shape: Vec<usize>,
    kind: GgufType,
    report: &mut ExportReport,
) -> PlannedTensor {
    let mut stored = if shape.len() < 2 { GgmlType::F32 } else { kind.ggml() };
    if !shape.last().copied().unwrap_or(1).is_multiple_of(stored.block_elements()) {
        report.notes.push(format!("`{name}` has rows of {shape:?}, no multiple of 32, and is stored as F16"));
        stored = GgmlType::F16;
    }
    *report.tensors.entry(format!("{stored:?}")).or_default() += 1;
    PlannedTensor { name, source, shape, kind: stored }
}

/// The order of layers, the embedding first, as converters write them.
fn order(tensor: &DeclaredTensor) -> (usize, usize, String) {
    match tensor.layer {
        Some(layer) => (1, layer, tensor.name.clone()),
        None if tensor.part.role == Role::Embedding => (0, 0, tensor.name.clone()),
        None => (2, 0, tensor.name.clone()),
    }
}

/// Reads a tensor as the file keeps it: rows in its order, norms with their offset.
fn read(weights: &dyn Checkpoint, tensor: &DeclaredTensor, config: &ModelConfig) -> Result<Vec<f32>> {
    let (name, part) = (&tensor.name, tensor.part);
    let mut values = weights.read_f32(name)?;
    if part.role.is_norm() && config.family.norm_offset != 0.0 {
        for value in &mut values {
            *value += config.family.norm_offset as f32;
        }
    }
    let Some(heads) = part.role.heads(config).filter(|_| part.rows == RowOrder::Interleaved) else { return Ok(values) };
    halves_interleaved(&values, heads * config.head_dim, heads)
        .ok_or_else(|| ExportError::unsupported(format!("`{name}` has no rows for {heads} heads of {}", config.head_dim)))
}

/// What llama.cpp divides the frequencies by, where the model stretches some of them.
fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let rotary = config.rotary.first()?;
    match &rotary.scaling {
        Some(RopeScaling::Factors { factors }) => Some(factors.iter().map(|factor| *factor as f32).collect()),
        Some(RopeScaling::Llama3 { .. }) => {
            let plain = RotaryConfig { scaling: None, ..rotary.clone() };
            let stretched = inverse_frequencies(config.head_dim, rotary);
            let plain = inverse_frequencies(config.head_dim, &plain);
            Some(plain.iter().zip(&stretched).map(|(plain, stretched)| (plain / stretched) as f32).collect())
        }
        Some(RopeScaling::Linear { .. }) | None => None,
    }
}

/// A text value.
fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

/// A number value; u32 in the file.
fn number(value: usize) -> Value {
    Value::Unsigned(value as u64)
}

/// Sets a key.
fn set(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.insert(key, value);
}
