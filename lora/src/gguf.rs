//! LoRA adapters in GGUF files.
//!
//! Source: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp.

use std::collections::BTreeMap;
use std::path::Path;

use burnish_models::families::by_architecture;
use burnish_models::gguf::{GgufFile, keys};
use burnish_models::part::{Part, RowOrder, of_gguf};

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::file::{AdapterFile, ModelLayout, Order, StoredTensor};
use crate::pattern::Pattern;
use crate::peft::{FACTORS, MAX_RANK, PREFIX};

/// The most experts of a layer.
const MOST_EXPERTS: usize = 4096;

/// The configuration: one alpha for all layers, and the rank of each layer's tensors.
///
/// # Errors
/// If the file is not that of a LoRA adapter of a known architecture.
pub(crate) fn config(path: &Path) -> Result<LoraConfig> {
    let (file, parts) = open(path)?;
    let refuse = |reason: String| LoraError::format(path, reason);
    let alpha = file.metadata().optional_float(keys::LORA_ALPHA).map_err(refuse)?.unwrap_or(0.0);
    let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in file.tensors() {
        let Some(stem) = tensor.name.strip_suffix(keys::LORA_FACTORS[0]) else { continue };
        let layer = layer_of(parts, stem).map_or_else(|| stem.to_owned(), |(layer, _)| layer);
        let rank = match tensor.shape[..] {
            [rank, _] | [_, rank, _] if (1..=MAX_RANK).contains(&(rank as u64)) => rank,
            _ => {
                return Err(refuse(format!(
                    "`{}`: expected [rank, in], or that of experts, got {:?}",
                    tensor.name, tensor.shape
                )));
            }
        };
        // Of experts, all.
        ranks.insert(layer.replacen("{}", r"\d+", 1), rank);
    }
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for rank in ranks.values() {
        *counts.entry(*rank).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or_default();
    let rank = counts.into_iter().find(|(_, count)| *count == most).map(|(rank, _)| rank);
    let Some(rank) = rank else { return Err(refuse("it has no tensors".into())) };
    let others = || ranks.iter().filter(|(_, other)| **other != rank);
    let pattern = |(layer, rank): (&String, &usize)| Pattern::new(layer, *rank).map_err(refuse);
    let rank_pattern = others().map(pattern).collect::<Result<Vec<_>>>()?;
    // Without an alpha, llama.cpp takes the factor 1.
    let (alpha, alpha_pattern) = if alpha == 0.0 {
        (rank as f64, rank_pattern.iter().map(|pattern| pattern.map(|rank| *rank as f64)).collect())
    } else {
        (alpha, Vec::new())
    };
    let config = LoraConfig { rank, alpha, rank_pattern, alpha_pattern, ..LoraConfig::default() };
    config.check()?;
    Ok(config)
}

/// Opens the tensors.
///
/// # Errors
/// As [`config`], and if rows can't be put in the order of checkpoints because the layout of the model is unknown.
pub(crate) fn open_weights(path: &Path, layout: Option<&ModelLayout>) -> Result<AdapterFile> {
    let head_dim = layout.map(|layout| layout.head_dim);
    let (file, parts) = open(path)?;
    let mut tensors = BTreeMap::new();
    for tensor in file.tensors() {
        let name = tensor.name.clone();
        let factor = keys::LORA_FACTORS.iter().position(|end| name.ends_with(end));
        let stem = factor.and_then(|index| name.strip_suffix(keys::LORA_FACTORS[index]));
        let (peft, order) = match (factor, stem.and_then(|stem| layer_of(parts, stem))) {
            (Some(index), Some((layer, part))) if part.role.is_expert() => {
                let count = tensor.shape.first().copied().filter(|count| tensor.shape.len() == 3 && *count <= MOST_EXPERTS);
                let Some(count) = count else {
                    let reason =
                        format!("`{name}`: expected factors of at most {MOST_EXPERTS} experts, got {:?}", tensor.shape);
                    return Err(LoraError::format(path, reason));
                };
                for expert in 0..count {
                    let matrix = layer.replacen("{}", &expert.to_string(), 1);
                    let stored = StoredTensor { name: name.clone(), order: Order::One { index: expert } };
                    tensors.insert(format!("{PREFIX}{matrix}{}", FACTORS[index]), stored);
                }
                continue;
            }
            (Some(index), Some((layer, part))) => {
                let is_moved = part.rows == RowOrder::Interleaved && index == 1;
                let order = match (is_moved, head_dim) {
                    (false, _) => Order::Same,
                    (true, Some(head_dim)) => Order::Interleaved { head_dim },
                    (true, None) => {
                        let reason = "the rows of queries and keys have llama.cpp's order; the size of the model's heads is \
                                      needed to read them (MergedCheckpoint::of)";
                        return Err(LoraError::format(path, reason));
                    }
                };
                (format!("{PREFIX}{layer}{}", FACTORS[index]), order)
            }
            // Named in an error later.
            _ => (name.clone(), Order::Same),
        };
        tensors.insert(peft, StoredTensor { name, order });
    }
    Ok(AdapterFile::new(Box::new(file), tensors))
}

/// The layer of a tensor, by its name in checkpoints, and its part.
fn layer_of(parts: &'static [Part], stem: &str) -> Option<(String, &'static Part)> {
    let (name, part) = of_gguf(parts, stem)?;
    Some((name.strip_suffix(".weight")?.to_owned(), part))
}

/// The file, and the parts of the architecture that it belongs to.
fn open(path: &Path) -> Result<(GgufFile, &'static [Part])> {
    let file = GgufFile::open(path)?;
    let refuse = |reason: &str| Err(LoraError::format(path, reason));
    let text = |key: &str| file.metadata().text(key).unwrap_or_default();
    match (text(keys::TYPE), text(keys::ADAPTER_TYPE)) {
        (keys::ADAPTER, keys::LORA) => {}
        (keys::ADAPTER, other) => {
            return refuse(&format!("`{}`: expected {}, got {other}", keys::ADAPTER_TYPE, keys::LORA));
        }
        (kind, _) => {
            return refuse(keys::other_content(kind).unwrap_or("this is a model, not an adapter; pass it as --model"));
        }
    }
    if file.metadata().get(keys::ALORA_TOKENS).is_some() {
        return refuse(&format!(
            "`{}`: an adapter that works only after certain tokens is not supported",
            keys::ALORA_TOKENS
        ));
    }
    let parts = by_architecture(text(keys::ARCHITECTURE))?.parts;
    Ok((file, parts))
}
