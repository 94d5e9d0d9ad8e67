//! GGUF files that llama.cpp, Ollama and LM Studio open.
//!
//! Source: `ggml/docs/gguf.md` and `conversion/llama.py` of llama.cpp.

mod metadata;
mod quants;
mod tokenizer;
mod writer;

use std::path::Path;

use burnish_models::gguf::names::{from_hugging_face, halves_interleaved};
use burnish_models::gguf::{GgmlType, Metadata, Value};
use burnish_models::{Checkpoint, ModelConfig, Pretrained, RopeScaling};

use crate::error::{ExportError, Result};
use crate::place;
use crate::report::ExportReport;
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
/// When the target exists, the tokenizer has no counterpart in llama.cpp, a weight is beyond f16, or the disk refuses;
/// nothing is left then.
pub fn export_gguf(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &GgufOptions,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let mut metadata = metadata::of_model(model, options.kind.file_type());
    tokenizer::add(&mut metadata, model)?;
    let factors = rope_factors(&model.config);
    let mut tensors = Vec::new();
    let mut names = weights.names();
    names.sort_by_key(|name| order(name));
    for name in names {
        let Some(own) = from_hugging_face(&name) else {
            report.notes.push(format!("`{name}` has no place in a GGUF and was left out"));
            continue;
        };
        let shape = weights.shape(&name).unwrap_or_default();
        tensors.push(plan(own, Some(name), shape, options.kind, &mut report));
    }
    if let Some(factors) = &factors {
        tensors.push(plan("rope_freqs.weight".to_owned(), None, vec![factors.len()], GgufType::F32, &mut report));
    }
    let inputs = place::inputs_of(model, weights);
    report.bytes = place::file(target, options.overwrite, &inputs, b"GGUF", |file| {
        write_header(file, &metadata, &tensors)?;
        for tensor in &tensors {
            let values = match &tensor.source {
                Some(name) => read(weights, name, &model.config)?,
                None => factors.clone().unwrap_or_default(),
            };
            file.put(&quants::encode(tensor.kind, &tensor.name, &values)?)?;
            file.align(writer::ALIGNMENT)?;
        }
        Ok(())
    })?;
    Ok(report)
}

fn plan(
    name: String,
    source: Option<String>,
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
fn order(name: &str) -> (usize, usize, String) {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
    match layer {
        Some(layer) => (1, layer, name.to_owned()),
        None if name.starts_with("model.embed_tokens") => (0, 0, name.to_owned()),
        None => (2, 0, name.to_owned()),
    }
}

/// Reads a tensor; query and key rows are interleaved as llama.cpp's rotation wants them.
fn read(weights: &dyn Checkpoint, name: &str, config: &ModelConfig) -> Result<Vec<f32>> {
    let values = weights.read_f32(name)?;
    let heads = if name.contains(".q_proj.") {
        config.num_attention_heads
    } else if name.contains(".k_proj.") {
        config.num_key_value_heads
    } else {
        return Ok(values);
    };
    let rows = heads * config.head_dim;
    halves_interleaved(&values, rows, heads)
        .ok_or_else(|| ExportError::unsupported(format!("`{name}` has no rows for {heads} heads of {}", config.head_dim)))
}

/// What llama.cpp divides the frequencies by, where the model stretches some of them.
fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        Some(RopeScaling::Factors { factors }) => Some(factors.iter().map(|factor| *factor as f32).collect()),
        Some(RopeScaling::Llama3 { .. }) => {
            let plain = ModelConfig { rope_scaling: None, ..config.clone() };
            let stretched = burnish_models::rope::inverse_frequencies(config);
            let plain = burnish_models::rope::inverse_frequencies(&plain);
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
