//! Writes LoRA adapters as GGUF files, which llama.cpp and Ollama apply to a model without merging.
//!
//! Source: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp.

use std::path::Path;

use burnish_lora::{HostAdapter, HostLayer};
use burnish_models::gguf::{Metadata, keys};
use burnish_models::part::{DeclaredTensor, GgufTensor, gguf_tensors};
use burnish_models::{FloatType, ModelConfig, Pretrained};

use super::kind::of_float;
use super::metadata::{QUANTIZATION_VERSION, name_of};
use super::writer::{ALIGNMENT, PlannedTensor, entries, write_header};
use super::{in_order, order, some_rows};
use crate::error::{ExportError, Result};
use crate::one_scale;
use crate::report::ExportReport;
use crate::target;

/// Options of [`export_gguf_lora`].
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufLoraOptions {
    /// The type that the factors are stored in.
    pub float: FloatType,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}

/// Writes an adapter of `model` as a GGUF file.
///
/// Such a file has one alpha: that of rsLoRA is multiplied by the root of the rank, and where `alpha_pattern` gives a layer another
/// scale, its B is multiplied instead, with a note in the report. Ranks may differ.
///
/// # Errors
/// [`ExportError::Unsupported`] for what the format can't hold: DoRA, matrices trained as a whole, and an adapter whose scale is 0.
/// Otherwise as [`export_gguf`](crate::export_gguf). The target is then unchanged.
pub fn export_gguf_lora(
    model: &Pretrained,
    adapter: &HostAdapter<'_>,
    target: &Path,
    options: &GgufLoraOptions,
) -> Result<ExportReport> {
    let config = adapter.config();
    check(adapter, config.dora)?;
    let mut layers: Vec<GgufTensor> = gguf_tensors(&model.config)
        .into_iter()
        .filter(|tensor| tensor.sources().any(|source| adapter.has_layer(layer_name(source))))
        .collect();
    layers.sort_by_key(|tensor| order(&tensor.source));
    layers.iter().try_for_each(|tensor| check_experts(tensor, adapter))?;
    let alpha_of = |layer: &str| adapter.scale_of(layer) * adapter.rank_of(layer) as f64;
    let alpha = one_scale::most_common(adapter.layers().map(alpha_of));
    if alpha == 0.0 {
        return Err(ExportError::unsupported(
            "the adapter's alpha is 0, so it changes nothing; in GGUF files 0 means no scaling",
        ));
    }
    let mut tensors = Vec::new();
    for layer in &layers {
        // Of experts there is a third dimension, which is the slowest.
        let (experts, matrix) = layer.shape.split_at(layer.shape.len() - 2);
        let [outputs, inputs] = [matrix[0], matrix[1]];
        let rank = adapter.rank_of(layer_name(&layer.source));
        for (end, shape) in keys::LORA_FACTORS.iter().zip([[rank, inputs], [outputs, rank]]) {
            let (kind, shape) = (of_float(options.float), [experts, &shape].concat());
            tensors.push(PlannedTensor { name: format!("{}{end}", layer.name), shape, kind });
        }
    }
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let changed = adapter.layers().filter(|layer| !one_scale::is_same(alpha_of(layer), alpha)).count();
    report.notes.extend(one_scale::note("a LoRA GGUF", changed));
    report.count(tensors.iter().map(|tensor| tensor.kind.name()));
    let metadata = metadata(model, alpha);
    let inputs = [target::inputs_of(model, &*model.checkpoint), adapter.files()].concat();
    report.bytes = target::write_file(target, options.overwrite, &inputs, b"GGUF", |file| {
        write_header(file, &entries(&metadata)?, &tensors)?;
        for tensor in &layers {
            let mut all: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
            for source in tensor.sources() {
                let Some(layer) = adapter.layer(layer_name(source))? else { continue };
                let own = factors(tensor, source, &layer, alpha, &model.config)?;
                all.iter_mut().zip(own).for_each(|(all, own)| all.extend(own));
            }
            for values in all {
                file.put(&options.float.encode(&tensor.source.name, &values)?)?;
                file.align(ALIGNMENT)?;
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// Refuses what the format can't hold.
fn check(adapter: &HostAdapter<'_>, dora: bool) -> Result<()> {
    let way_out = "--format gguf writes the merged model, which has it";
    if dora {
        let reason = format!("a LoRA GGUF has no magnitudes, and this is an adapter of DoRA (`use_dora`); {way_out}");
        return Err(ExportError::unsupported(reason));
    }
    let modules: Vec<&str> = adapter.modules().collect();
    if !modules.is_empty() {
        let names = modules.join(", ");
        let reason = format!(
            "a LoRA GGUF has only factors, and this adapter trained whole matrices (`modules_to_save`: {names}); {way_out}"
        );
        return Err(ExportError::unsupported(reason));
    }
    Ok(())
}

fn metadata(model: &Pretrained, alpha: f64) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert(keys::ARCHITECTURE, model.config.family.gguf.name);
    metadata.insert(keys::TYPE, keys::ADAPTER);
    metadata.insert(keys::ADAPTER_TYPE, keys::LORA);
    metadata.insert(keys::LORA_ALPHA, alpha);
    metadata.insert("general.name", format!("{} LoRA", name_of(&model.source)));
    metadata.insert(QUANTIZATION_VERSION.0, QUANTIZATION_VERSION.1);
    metadata
}

/// Refuses experts of which only some have factors, or which have several ranks: the file has those of all in one tensor.
fn check_experts(tensor: &GgufTensor, adapter: &HostAdapter<'_>) -> Result<()> {
    let rank = adapter.rank_of(layer_name(&tensor.source));
    match tensor.sources().map(layer_name).find(|layer| adapter.rank_of(layer) != rank) {
        Some(layer) => Err(ExportError::unsupported(format!(
            "a LoRA GGUF has factors of the same rank for all experts of a layer; {layer} has the rank {}, the first expert {rank}; \
             --format gguf writes the merged model",
            adapter.rank_of(layer)
        ))),
        None => Ok(()),
    }
}

/// `A` and `B` of one matrix as the file stores them. Tensors that share a layer share its `A`.
fn factors(
    tensor: &GgufTensor,
    source: &DeclaredTensor,
    layer: &HostLayer,
    alpha: f64,
    config: &ModelConfig,
) -> Result<[Vec<f32>; 2]> {
    let lora_b = in_order(one_scale::lora_b(layer, alpha / layer.rank as f64), source, config)?;
    Ok([layer.lora_a.clone(), some_rows(&lora_b, source.shape[0], &tensor.rows).to_vec()])
}

/// The name of the layer that a tensor belongs to.
fn layer_name(tensor: &DeclaredTensor) -> &str {
    tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name)
}
