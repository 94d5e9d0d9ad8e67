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
    let layers = layers(model, adapter)?;
    let scale = one_scale::most_common(adapter.layers().map(|layer| adapter.scale_of(layer)));
    if scale == 0.0 {
        return Err(ExportError::unsupported("the adapter's scale is 0, so it changes nothing"));
    }
    let rank = adapter.layers().map(|layer| adapter.rank_of(layer)).next().unwrap_or(config.rank);
    let (keys, num_layers) = keys(model, &layers);
    let json = json!({
        "model": model.source,
        "fine_tune_type": if config.dora { "dora" } else { "lora" },
        "num_layers": num_layers,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": config.dropout, "keys": keys },
    });
    let mut report = ExportReport { path: target.to_owned(), ..ExportReport::default() };
    let changed = adapter.layers().filter(|layer| !one_scale::is_same(adapter.scale_of(layer), scale)).count();
    report.notes.extend(one_scale::note("an MLX adapter", changed));
    let inputs = [inputs_of(model, &*model.checkpoint), adapter.files()].concat();
    write_folder(target, options.overwrite, &inputs, |folder| -> Result<()> {
        report.bytes += write_text(&folder.join("adapter_config.json"), &pretty(&json))?;
        let (bytes, count) = write_weights(adapter, &layers, scale, &folder.join(MLX_WEIGHTS))?;
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
        ranks.entry(adapter.rank_of(layer)).or_insert(layer);
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

/// An adapted layer in mlx-lm, and the matrices that it has: one, or those of all experts.
struct MlxLayer {
    /// Its name in the model.
    name: String,
    /// Its name in a block.
    in_block: String,
    block: Option<usize>,
    /// The names of the matrices without `.weight`.
    matrices: Vec<String>,
    /// `[out, in]` of each.
    dims: [usize; 2],
    is_of_experts: bool,
}

/// The adapted layers.
fn layers(model: &Pretrained, adapter: &HostAdapter<'_>) -> Result<Vec<MlxLayer>> {
    let mut layers: BTreeMap<String, MlxLayer> = BTreeMap::new();
    for tensor in declared_tensors(&model.config) {
        let (Some(name), &[outputs, inputs]) = (tensor.name.strip_suffix(".weight"), &tensor.shape[..]) else { continue };
        let is_of_experts = tensor.part.role.is_expert();
        let in_mlx = tensor.layer.filter(|_| is_of_experts).map(|layer| tensor.part.mlx_name_in(layer));
        let own = in_mlx.unwrap_or_else(|| name.to_owned());
        let layer = layers.entry(own.clone()).or_insert_with(|| MlxLayer {
            name: own,
            in_block: tensor.part.mlx_name(),
            block: tensor.layer,
            matrices: Vec::new(),
            dims: [outputs, inputs],
            is_of_experts,
        });
        layer.matrices.push(name.to_owned());
    }
    let has = |layer: &MlxLayer| layer.matrices.iter().filter(|matrix| adapter.has_layer(matrix)).count();
    let adapted: Vec<MlxLayer> = layers.into_values().filter(|layer| has(layer) > 0).collect();
    match adapted.iter().find(|layer| has(layer) < layer.matrices.len()) {
        Some(layer) => Err(ExportError::unsupported(format!(
            "an MLX adapter has factors for all experts of a layer, and this one only for {} of {} in {}; --format mlx writes the \
             merged model",
            has(layer),
            layer.matrices.len(),
            layer.name
        ))),
        None => Ok(adapted),
    }
}

/// The layers in mlx-lm's words: their names within a block, and the number of blocks counted from the last. Where the blocks differ,
/// these are whole names, which mlx-lm looks up in the model.
fn keys(model: &Pretrained, layers: &[MlxLayer]) -> (Vec<String>, usize) {
    let mut blocks: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for layer in layers {
        let Some(block) = layer.block else { continue };
        blocks.entry(block).or_default().insert(&layer.in_block);
    }
    let all = model.config.num_hidden_layers;
    let first = blocks.keys().next().copied().unwrap_or_default();
    let is_even = blocks.values().all(|names| Some(names) == blocks.values().next()) && blocks.len() == all - first;
    if is_even && let Some(names) = blocks.into_values().next() {
        return (names.into_iter().map(str::to_owned).collect(), all - first);
    }
    (layers.iter().map(|layer| layer.name.clone()).collect(), all)
}

/// Writes the tensors, and returns the number of bytes and of tensors.
///
/// # Source
/// `LoRALinear` and `LoRASwitchLinear` in `mlx_lm/tuner/lora.py`: the factors of experts are not transposed.
fn write_weights(adapter: &HostAdapter<'_>, layers: &[MlxLayer], scale: f64, path: &Path) -> Result<(u64, usize)> {
    let config = adapter.config();
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({ "format": "mlx" }))]);
    let (mut offset, mut count) = (0usize, 0);
    let mut add = |name: String, shape: &[usize]| {
        let end = offset + 4 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] }));
        (offset, count) = (end, count + 1);
    };
    for MlxLayer { name, matrices, dims: [outputs, inputs], is_of_experts, .. } in layers {
        let rank = adapter.rank_of(&matrices[0]);
        let shapes = if *is_of_experts {
            [vec![matrices.len(), rank, *inputs], vec![matrices.len(), *outputs, rank]]
        } else {
            [vec![*inputs, rank], vec![rank, *outputs]]
        };
        for (end, shape) in MLX_FACTORS.iter().zip(shapes) {
            add(format!("{name}{end}"), &shape);
        }
        if config.dora {
            add(format!("{name}{MLX_MAGNITUDE}"), &[*outputs]);
        }
    }
    let mut file = create(path, header)?;
    for MlxLayer { matrices, is_of_experts, .. } in layers {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for matrix in matrices {
            let Some(layer) = adapter.layer(matrix)? else { continue };
            let own = if *is_of_experts {
                vec![layer.lora_a.clone(), one_scale::lora_b(&layer, scale)]
            } else {
                tensors(&layer, scale)
            };
            all.resize(own.len(), Vec::new());
            all.iter_mut().zip(own).for_each(|(all, own)| all.extend(own));
        }
        for values in all {
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
