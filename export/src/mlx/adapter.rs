//! Writes adapters as folders of mlx-lm.
//!
//! Source: `mlx_lm/tuner` of mlx-lm 0.32.2.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burnish_lora::mlx::{MLX_FACTORS, MLX_MAGNITUDE, MLX_WEIGHTS};
use burnish_lora::{HostAdapter, HostLayer, transposed};
use burnish_models::Pretrained;
use burnish_models::part::{DeclaredTensor, Role, declared_tensors};
use serde_json::json;

use crate::counted_file::write_text;
use crate::error::{ExportError, Result};
use crate::model_card::ModelCard;
use crate::one_scale;
use crate::report::ExportReport;
use crate::safetensors::{create, pretty};
use crate::target::{inputs_of, write_folder};

/// Options of [`export_mlx_adapter`].
#[derive(Debug, Clone, Default)]
pub struct MlxAdapterOptions {
    /// The model card, if there is to be one.
    pub card: Option<ModelCard>,
    /// Whether an existing target may be replaced.
    pub overwrite: bool,
}

/// Writes an adapter of `model` as a folder that mlx-lm opens: `adapter_config.json` and `adapters.safetensors`, in f32.
///
/// mlx-lm multiplies all updates by one factor, `scale`. Where `alpha_pattern` gives a layer another one, its B is multiplied
/// instead, with a note in the report.
///
/// # Errors
/// [`ExportError::Unsupported`] for what the format can't hold: layers of different ranks, matrices trained as a whole, and an adapter
/// whose scale is 0. Otherwise as [`export_adapter`](crate::export_adapter).
pub fn export_mlx_adapter(
    model: &Pretrained,
    adapter: &HostAdapter<'_>,
    target: &Path,
    options: &MlxAdapterOptions,
) -> Result<ExportReport> {
    let config = adapter.config();
    check(adapter)?;
    check_names(model, adapter)?;
    let scale = one_scale::most_common(adapter.layers().map(|layer| config.scale_of(layer)));
    if scale == 0.0 {
        return Err(ExportError::unsupported("the adapter's scale is 0, so it changes nothing"));
    }
    let rank = adapter.layers().map(|layer| config.rank_of(layer)).next().unwrap_or(config.rank);
    let (keys, num_layers) = keys(model, adapter);
    let json = json!({
        "model": model.source,
        "fine_tune_type": if config.dora { "dora" } else { "lora" },
        "num_layers": num_layers,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": config.dropout, "keys": keys },
    });
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let changed = adapter.layers().filter(|layer| !one_scale::is_same(config.scale_of(layer), scale)).count();
    report.notes.extend(one_scale::note("an MLX adapter", changed));
    let inputs = [inputs_of(model, &*model.checkpoint), adapter.files()].concat();
    write_folder(target, options.overwrite, &inputs, |folder| -> Result<()> {
        report.bytes += write_text(&folder.join("adapter_config.json"), &pretty(&json))?;
        let (bytes, count) = write_weights(adapter, scale, &folder.join(MLX_WEIGHTS))?;
        report.bytes += bytes;
        report.tensors.insert("F32".to_owned(), count);
        if let Some(card) = &options.card {
            report.bytes += card.write(folder)?;
        }
        Ok(())
    })?;
    Ok(report)
}

/// Refuses what the format can't hold.
fn check(adapter: &HostAdapter<'_>) -> Result<()> {
    let config = adapter.config();
    let modules: Vec<&str> = adapter.modules().collect();
    if !modules.is_empty() {
        return Err(ExportError::unsupported(format!(
            "an MLX adapter has only factors, and this adapter trained whole matrices (`modules_to_save`: {}); --format mlx writes \
             the merged model, which has them",
            modules.join(", ")
        )));
    }
    let mut ranks: BTreeMap<usize, &str> = BTreeMap::new();
    for layer in adapter.layers() {
        ranks.entry(config.rank_of(layer)).or_insert(layer);
    }
    if ranks.len() > 1 {
        let named: Vec<String> = ranks.iter().map(|(rank, layer)| format!("{rank} in {layer}")).collect();
        return Err(ExportError::unsupported(format!(
            "an MLX adapter has one rank for all layers, and this one has several (`rank_pattern`: {}); --format mlx writes the merged \
             model",
            named.join(", ")
        )));
    }
    Ok(())
}

/// Refuses layers of a feed-forward whose gate and up are one matrix here and two in mlx-lm, where they have other names.
fn check_names(model: &Pretrained, adapter: &HostAdapter<'_>) -> Result<()> {
    if model.config.family.parts.iter().all(|part| part.halves.is_none()) {
        return Ok(());
    }
    let is_other = |tensor: &DeclaredTensor| {
        let layer = tensor.name.strip_suffix(".weight");
        matches!(tensor.part.role, Role::GateUp | Role::Down) && layer.is_some_and(|layer| adapter.has_layer(layer))
    };
    match declared_tensors(&model.config).into_iter().find(is_other) {
        Some(tensor) => Err(ExportError::unsupported(format!(
            "an MLX adapter can't have `{}`, which has another name in mlx-lm; --format mlx writes the merged model",
            tensor.part.name
        ))),
        None => Ok(()),
    }
}

/// The layers in mlx-lm's words: their names within a block, and the number of blocks counted from the last. Where the blocks differ,
/// these are whole names, which mlx-lm looks up in the model.
fn keys(model: &Pretrained, adapter: &HostAdapter<'_>) -> (Vec<String>, usize) {
    let mut blocks: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let tensors = declared_tensors(&model.config);
    for tensor in &tensors {
        let (Some(block), Some(layer)) = (tensor.layer, tensor.name.strip_suffix(".weight")) else { continue };
        if adapter.has_layer(layer) {
            blocks.entry(block).or_default().insert(tensor.part.name);
        }
    }
    let all = model.config.num_hidden_layers;
    let first = blocks.keys().next().copied().unwrap_or_default();
    let is_even = blocks.values().all(|names| Some(names) == blocks.values().next()) && blocks.len() == all - first;
    if is_even && let Some(names) = blocks.into_values().next() {
        return (names.into_iter().map(str::to_owned).collect(), all - first);
    }
    (adapter.layers().map(str::to_owned).collect(), all)
}

/// Writes the tensors, and returns the number of bytes and of tensors.
fn write_weights(adapter: &HostAdapter<'_>, scale: f64, path: &Path) -> Result<(u64, usize)> {
    let config = adapter.config();
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({ "format": "mlx" }))]);
    let (mut offset, mut count) = (0usize, 0);
    let mut add = |name: String, shape: &[usize]| {
        let end = offset + 4 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] }));
        (offset, count) = (end, count + 1);
    };
    for name in adapter.layers() {
        let shape = adapter.base().shape(&format!("{name}.weight")).unwrap_or_default();
        let ([outputs, inputs], rank) = ([shape[0], shape[1]], config.rank_of(name));
        add(format!("{name}{}", MLX_FACTORS[0]), &[inputs, rank]);
        add(format!("{name}{}", MLX_FACTORS[1]), &[rank, outputs]);
        if config.dora {
            add(format!("{name}{MLX_MAGNITUDE}"), &[outputs]);
        }
    }
    let mut file = create(path, header)?;
    for name in adapter.layers() {
        let Some(layer) = adapter.layer(name)? else { continue };
        for values in tensors(&layer, scale) {
            file.put(bytemuck::cast_slice(&values))?;
        }
    }
    Ok((file.finish()?, count))
}

/// `A`, `B` and the magnitude as the file stores them.
fn tensors(layer: &HostLayer, scale: f64) -> Vec<Vec<f32>> {
    let factors = [transposed(&layer.lora_a, layer.rank), transposed(&one_scale::lora_b(layer, scale), layer.dims()[1])];
    factors.into_iter().chain(layer.magnitude.clone()).collect()
}
