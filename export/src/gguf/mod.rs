//! Writes GGUF files, which llama.cpp, Ollama and LM Studio open.
//!
//! Each family declares which tensors a file has, their names and the order of their rows (`burnish_models::families`).
//! Source: `ggml/docs/gguf.md` and `conversion/` of llama.cpp.

mod importance;
mod kind;
mod lora;
mod measured;
mod metadata;
mod mixture;
mod parts;
mod quantize;
mod quants;
mod tokenizer;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use burnish_kernels::packed::{Packed, PackedKind};

use burnish_models::checkpoint::{for_rows, is_ignored};
use burnish_models::gguf::{GgmlType, halves_interleaved, keys};
use burnish_models::part::{DeclaredTensor, GgufTensor, Role, RowOrder, declared_tensors, gguf_tensors};
use burnish_models::rope::inverse_frequencies;
use burnish_models::{Checkpoint, ModelConfig, Pretrained, RopeScaling, RotaryConfig};

pub use importance::ImportanceMatrix;
pub use kind::{GgufOptions, GgufType};
pub use lora::{GgufLoraOptions, export_gguf_lora};
pub use measured::MeasuredInputs;
pub use mixture::Mixture;
pub use quantize::quantize_gguf;

use crate::counted_file::CountedFile;
use crate::error::{ExportError, Result};
use crate::report::ExportReport;
use crate::{fit, target};
use mixture::Facts;
use writer::PlannedTensor;

/// Writes a model as a GGUF file, or as parts of one, with its tokenizer and chat templates.
///
/// `weights` are those of `model`, or the same with an adapter merged into them. Vectors are stored as F32. A matrix whose rows the
/// blocks of its type do not divide has another type, as in llama.cpp, with a note in the report.
///
/// # Errors
/// [`ExportError::Exists`] or [`ExportError::Occupied`] if the target must not be replaced. [`ExportError::Unsupported`] if
/// llama.cpp has no equivalent of the tokenizer or of a key of the configuration, or if a tensor has no name in GGUF files.
/// [`ExportError::Requantizes`] if a matrix is in few bits already, and the options don't allow quantising it again. An error if a
/// tensor is missing, has another shape than the configuration says, or is outside the range of f16, or if the file can't be
/// written. The target is then unchanged.
pub fn export_gguf(
    model: &Pretrained,
    weights: &dyn Checkpoint,
    target: &Path,
    options: &GgufOptions<'_>,
) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let mut metadata = metadata::of_model(model, options.kind.file_type().into(), &mut report)?;
    tokenizer::add(&mut metadata, model, &mut report)?;
    for (key, value) in options.importance.iter().flat_map(|importance| importance.keys()) {
        metadata.insert(key, value);
    }
    let declared = declared(&model.config, weights)?;
    let factors = rope_factors(&model.config);
    let named: Vec<_> = declared.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let facts = Facts {
        architecture: model.config.family.gguf.name,
        layers: model.config.num_hidden_layers,
        heads: model.config.num_attention_heads,
        kv_heads: model.config.num_key_value_heads,
        has_importance: options.importance.is_some(),
    };
    let kinds = options.kind.types(&facts, &named).into_iter().map(|kind| kind.unwrap_or(GgmlType::F32));
    let mut tensors: Vec<PlannedTensor> = named
        .iter()
        .zip(kinds)
        .map(|((name, shape), kind)| PlannedTensor { name: (*name).to_owned(), shape: shape.to_vec(), kind })
        .collect();
    for (tensor, planned) in declared.iter().zip(&tensors) {
        for source in tensor.sources() {
            check_packed(model, weights.packed_kind(&source.name), planned, options)?;
        }
    }
    for (name, factors) in &factors {
        tensors.push(PlannedTensor { name: (*name).to_owned(), shape: vec![factors.len()], kind: GgmlType::F32 });
    }
    let importance = importance_of(&tensors, options, &mut report)?;
    report.notes.extend(options.kind.note_on_rows(&named));
    report.count(tensors.iter().map(|tensor| tensor.kind.name()));
    let (inputs, entries) = (target::inputs_of(model, weights), writer::entries(&metadata)?);
    parts::write(&mut report, &inputs, options, &entries, &tensors, |at, file| {
        let (tensor, importance) = (&tensors[at], importance[at]);
        if let Some(declared) = declared.get(at) {
            put(file, weights, declared, tensor, &model.config, importance)
        } else {
            let factors = factors.get(tensor.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            file.put(&quants::encode(tensor, factors, None)?)
        }
    })?;
    Ok(report)
}

/// Refuses a matrix that is in few bits and is to be quantised again, unless the options allow that.
fn check_packed(
    model: &Pretrained,
    packed: Option<PackedKind>,
    tensor: &PlannedTensor,
    options: &GgufOptions<'_>,
) -> Result<()> {
    match packed {
        Some(from) if from != PackedKind::Gguf(tensor.kind) && tensor.kind.is_packed() && !options.requantize => {
            Err(ExportError::Requantizes {
                path: model.source.clone().into(),
                tensor: tensor.name.clone(),
                from: from.name(),
                to: tensor.kind.name(),
            })
        }
        _ => Ok(()),
    }
}

/// The importance of each tensor that is quantised with it, and a note on those that have none.
fn importance_of<'a>(
    tensors: &[PlannedTensor],
    options: &GgufOptions<'a>,
    report: &mut ExportReport,
) -> Result<Vec<Option<&'a [f32]>>> {
    let Some(matrix) = options.importance else { return Ok(vec![None; tensors.len()]) };
    if !tensors.iter().any(|tensor| matrix.has(&tensor.name)) {
        return Err(ExportError::unsupported(format!(
            "{} has the importance of no tensor of this model: it belongs to another model",
            matrix.path().display()
        )));
    }
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for tensor in tensors {
        // llama.cpp has no use for it in Q8_0.
        let is_used = tensor.kind.is_packed() && tensor.kind != GgmlType::Q8_0;
        let importance = if is_used { matrix.of(&tensor.name, tensor.columns())? } else { None };
        if is_used && importance.is_none() {
            missing.push(tensor.name.as_str());
        }
        found.push(importance);
    }
    if let Some(first) = missing.first() {
        let rest = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
        let path = matrix.path().display();
        report.notes.push(format!("{path} has no importance of `{first}`{rest}: quantised as without an importance matrix"));
    }
    Ok(found)
}

/// Writes the bytes of a tensor. Blocks of its type are copied; other tensors are encoded a few rows at a time, where rows keep their
/// order.
fn put(
    file: &mut CountedFile,
    weights: &dyn Checkpoint,
    declared: &GgufTensor,
    tensor: &PlannedTensor,
    config: &ModelConfig,
    importance: Option<&[f32]>,
) -> Result<()> {
    for source in declared.sources() {
        put_part(file, weights, (source, &declared.rows), tensor, config, importance)?;
    }
    Ok(())
}

/// The same of some rows of a tensor of the checkpoint.
fn put_part(
    file: &mut CountedFile,
    weights: &dyn Checkpoint,
    (source, rows): (&DeclaredTensor, &Range<usize>),
    tensor: &PlannedTensor,
    config: &ModelConfig,
    importance: Option<&[f32]>,
) -> Result<()> {
    let count = source.shape[0];
    if weights.packed_kind(&source.name) == Some(PackedKind::Gguf(tensor.kind))
        && let Some(Packed::Gguf(blocks)) = weights.read_packed(&source.name)?
    {
        let bytes = in_order(blocks.bytes().to_vec(), source, config)?;
        return file.put(&writer::broken(tensor, some_rows(&bytes, count, rows)));
    }
    if source.part.role.is_norm() || source.part.rows == RowOrder::Interleaved || *rows != (0..count) {
        let values = read(weights, source, config)?;
        let bytes = quants::encode(tensor, some_rows(&values, count, rows), importance)?;
        return file.put(&writer::broken(tensor, &bytes));
    }
    for_rows(weights, &source.name, |values| {
        let bytes = quants::encode(tensor, values, importance)?;
        file.put(&writer::broken(tensor, &bytes))
    })
}

/// Some of the `count` rows of a tensor.
fn some_rows<'a, T>(values: &'a [T], count: usize, rows: &Range<usize>) -> &'a [T] {
    let row = values.len() / count.max(1);
    &values[rows.start * row..rows.end * row]
}

/// The tensors of the file: exactly those that the family declares, because llama.cpp would ignore any other.
fn declared(config: &ModelConfig, weights: &dyn Checkpoint) -> Result<Vec<GgufTensor>> {
    let all = declared_tensors(config);
    let known: BTreeSet<&str> = all.iter().map(|tensor| tensor.name.as_str()).collect();
    let stored: BTreeSet<String> = weights.names().into_iter().filter(|name| !is_ignored(name)).collect();
    let unnamed = stored.iter().filter(|name| !known.contains(name.as_str()));
    let problems: Vec<String> = unnamed.map(|name| format!("`{name}` has no name in GGUF files")).collect();
    if !problems.is_empty() {
        let kind = config.family.gguf.name;
        return Err(ExportError::unsupported(format!("can't be written as a `{kind}` GGUF:\n  {}", problems.join("\n  "))));
    }
    fit::check(config, weights)?;
    let mut tensors = gguf_tensors(config);
    tensors.sort_by_key(|tensor| order(&tensor.source));
    Ok(tensors)
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
    let mut values = weights.read_f32(&tensor.name)?;
    if tensor.part.role.is_norm() && config.family.norm_offset != 0.0 {
        for value in &mut values {
            *value += config.family.norm_offset as f32;
        }
    }
    in_order(values, tensor, config)
}

/// The elements of a tensor, or the bytes of its blocks, with rows in the order of GGUF files.
fn in_order<T: Copy + Default>(values: Vec<T>, tensor: &DeclaredTensor, config: &ModelConfig) -> Result<Vec<T>> {
    let (name, part) = (&tensor.name, tensor.part);
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
