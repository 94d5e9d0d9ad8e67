//! Quantises a GGUF file, a few rows at a time, with everything else of it unchanged.

use std::path::Path;

use burnish_models::gguf::{GgufFile, TensorInfo, Value, keys};
use burnish_models::{Checkpoint, ModelError};

use super::kind::GgufOptions;
use super::metadata::QUANTIZATION_VERSION;
use super::mixture::Facts;
use super::writer::{self, Entry, PlannedTensor};
use super::{importance_of, parts, quants};
use crate::error::{ExportError, Result};
use crate::report::ExportReport;

/// Elements that are read, quantised and written at a time, unless a row has more.
const SLAB: usize = 1 << 23;

/// Beginnings of the keys that are not copied.
const CHANGED: [&str; 5] = ["general.file_type", QUANTIZATION_VERSION.0, "general.alignment", "split.", "quantize.imatrix."];

/// Writes a GGUF file again, in one file or in parts, with its matrices stored as the options say. Metadata, tokenizer, chat templates, and tensors that no
/// mixture quantises are copied as they are; so are matrices that have their type already.
///
/// # Errors
/// [`ExportError::Exists`] or [`ExportError::Occupied`] if the target must not be replaced. [`ExportError::Requantizes`] if a matrix
/// is in few bits already, and the options don't allow quantising it again. [`ModelError::IsAdapter`] for an adapter,
/// [`ExportError::Unsupported`] for a model with another number of blocks than it says, and an error if no family has
/// the architecture, a weight is not finite or outside the range of f16, or the file can't be read or written. The target is then
/// unchanged.
pub fn quantize_gguf(source: &GgufFile, target: &Path, options: &GgufOptions<'_>) -> Result<ExportReport> {
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let facts = facts(source, options)?;
    let mut infos: Vec<&TensorInfo> = source.tensors().collect();
    infos.sort_by_key(|info| (info.shard, info.offset));
    let named: Vec<_> = infos.iter().map(|info| (info.name.as_str(), info.shape.as_slice())).collect();
    let kinds = options.kind.types(&facts, &named);
    let mut tensors = Vec::new();
    for (info, kind) in infos.iter().zip(kinds) {
        let kind = kind.unwrap_or(info.kind);
        if kind != info.kind && kind.is_packed() && info.kind.is_packed() && !options.requantize {
            let (path, tensor) = (source.path().to_owned(), info.name.clone());
            return Err(ExportError::Requantizes { path, tensor, from: info.kind.name(), to: kind.name() });
        }
        tensors.push(PlannedTensor { name: info.name.clone(), shape: info.shape.clone(), kind });
    }
    let importance = importance_of(&tensors, options, &mut report)?;
    report.notes.extend(options.kind.note_on_rows(&named));
    report.count(tensors.iter().map(|tensor| tensor.kind.name()));
    let entries = entries(source, options)?;
    parts::write(&mut report, &source.files(), options, &entries, &tensors, |at, file| {
        let (info, tensor, importance) = (infos[at], &tensors[at], importance[at]);
        let columns = tensor.columns().max(1);
        let rows = info.shape.iter().product::<usize>() / columns;
        let each = (SLAB / columns).max(1);
        for first in (0..rows).step_by(each) {
            source.with_rows(info, first..rows.min(first + each), |bytes| {
                if tensor.kind == info.kind {
                    if !info.kind.is_packed() {
                        quants::check_finite(&info.name, &info.kind.dequantize(bytes))?;
                    }
                    return file.put(bytes);
                }
                file.put(&quants::recode(tensor, info.kind, bytes, importance)?)
            })??;
        }
        Ok(())
    })?;
    Ok(report)
}

/// What the types depend on.
fn facts<'a>(source: &'a GgufFile, options: &GgufOptions<'_>) -> Result<Facts<'a>> {
    let metadata = source.metadata();
    if metadata.text(keys::TYPE) == Some(keys::ADAPTER) {
        return Err(ModelError::IsAdapter { path: source.path().to_owned(), base: None, format: "GGUF" }.into());
    }
    // Refuses what no family knows.
    source.config_json()?;
    let architecture = metadata.text(keys::ARCHITECTURE).unwrap_or_default();
    let number = |key: &str| metadata.number(&format!("{architecture}.{key}"));
    let heads = number("attention.head_count").unwrap_or(0);
    let layers = number("block_count").unwrap_or(0);
    let blocks =
        source.tensors().filter_map(|info| info.name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok());
    let blocks = blocks.max().map_or(0, |last| last.saturating_add(1));
    if layers != blocks || layers == 0 {
        return Err(ExportError::unsupported(format!(
            "{}: `{architecture}.block_count` is {layers}, but the file has the tensors of {blocks} blocks",
            source.path().display()
        )));
    }
    Ok(Facts {
        architecture,
        layers,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        has_importance: options.importance.is_some(),
    })
}

/// The metadata of the file, as its bytes are, with what is said of the types.
fn entries<'a>(source: &'a GgufFile, options: &GgufOptions<'_>) -> Result<Vec<Entry<'a>>> {
    let is_kept = |key: &str| !CHANGED.iter().any(|changed| key.starts_with(changed));
    let kept = source.entries().filter(|(key, _)| is_kept(key)).map(|(key, value)| (key, value.into()));
    let mut entries: Vec<Entry<'a>> = kept.collect();
    entries.push(writer::entry(QUANTIZATION_VERSION.0, &QUANTIZATION_VERSION.1.into())?);
    entries.push(writer::entry("general.file_type", &Value::Unsigned(options.kind.file_type().into()))?);
    for (key, value) in options.importance.iter().flat_map(|importance| importance.keys()) {
        entries.push(writer::entry(key, &value)?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
