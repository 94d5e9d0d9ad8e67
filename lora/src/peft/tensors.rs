//! The tensors of an adapter file.

use std::collections::BTreeMap;
use std::path::Path;

use burnish_kernels::FusedBackend;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, LanguageModel};

use super::{PREFIX, WEIGHTS};
use crate::config::LoraConfig;
use crate::error::{LoraError, Result};

/// Opens the weights of an adapter.
pub(crate) fn open_weights(folder: &Path) -> Result<SafetensorsFolder> {
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let reason = format!("has adapter_model.bin, and {WEIGHTS} is read: PEFT's save_pretrained(folder) writes it");
        return Err(LoraError::format(folder, reason));
    }
    Ok(SafetensorsFolder::from_files(&[path])?)
}

/// The tensors of an adapter file, paired by layer.
pub(crate) struct AdapterTensors<'a> {
    checkpoint: &'a SafetensorsFolder,
    config: &'a LoraConfig,
    /// Layer to the names of its `A` and `B`.
    pub(crate) layers: BTreeMap<String, [String; 2]>,
    strange: Vec<String>,
}

impl<'a> AdapterTensors<'a> {
    pub(crate) fn new(checkpoint: &'a SafetensorsFolder, config: &'a LoraConfig) -> Self {
        let mut layers: BTreeMap<String, [String; 2]> = BTreeMap::new();
        let mut strange = Vec::new();
        for tensor in checkpoint.names() {
            let name = tensor.strip_prefix(PREFIX).unwrap_or(&tensor);
            let name = name.replace(".default.", ".");
            let part = [".lora_A.weight", ".lora_B.weight"].iter().position(|part| name.ends_with(part));
            match part {
                Some(index) => {
                    let layer = &name[..name.len() - ".lora_A.weight".len()];
                    let slot = &mut layers.entry(layer.to_owned()).or_default()[index];
                    if slot.is_empty() {
                        *slot = tensor;
                    } else {
                        strange.push(format!("{tensor}: {slot} is the same factor"));
                    }
                }
                None => strange.push(format!("{tensor}: {}", strangeness(&name))),
            }
        }
        Self { checkpoint, config, layers, strange }
    }

    /// Checks that the adapter, which is in `folder`, fits the layers of a model.
    pub(super) fn check_model<B: FusedBackend>(&self, folder: &Path, model: &LanguageModel<B>) -> Result<()> {
        let dims: BTreeMap<String, [usize; 2]> =
            model.linears().into_iter().map(|(name, linear)| (name, linear.dims())).collect();
        self.check(folder, |layer| dims.get(layer).copied())
    }

    /// As `check_model`, with the dims of a layer given by a function.
    pub(crate) fn check(&self, folder: &Path, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Result<()> {
        // A checkpoint has these weights too, so that merging would take what a model with the adapter does not.
        let outside = self.layers.keys().filter(|layer| {
            let last = layer.rsplit('.').next().unwrap_or_default();
            ["lm_head", "embed_tokens"].contains(&last)
        });
        let outside = outside.map(|layer| format!("{layer}: only linear layers of the blocks can have an adapter"));
        let unsupported: Vec<String> = self.strange.iter().cloned().chain(outside).collect();
        if !unsupported.is_empty() {
            return Err(LoraError::Unsupported { path: folder.to_owned(), problems: unsupported });
        }
        let problems = self.misfits(dims);
        if problems.is_empty() { Ok(()) } else { Err(LoraError::Misfit { path: folder.to_owned(), problems }) }
    }

    fn misfits(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.layers.is_empty() {
            problems.push("it has no tensors".to_owned());
        }
        for (layer, [a, b]) in &self.layers {
            if a.is_empty() || b.is_empty() {
                problems.push(format!("{layer}: only one of lora_A and lora_B is there"));
                continue;
            }
            let Some([outputs, inputs]) = dims(layer) else {
                problems.push(format!("{layer}: the model has no such layer"));
                continue;
            };
            let rank = self.config.rank_of(layer);
            for (tensor, expected) in [(a, [rank, inputs]), (b, [outputs, rank])] {
                let shape = self.checkpoint.shape(tensor).unwrap_or_default();
                if shape != expected {
                    problems.push(format!("{tensor}: {shape:?} found, {expected:?} expected"));
                }
            }
        }
        problems
    }
}

/// What a tensor is that is not one of the two factors of a linear layer.
fn strangeness(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or_default();
    match (name.contains("lora_"), last) {
        _ if name.contains("lora_embedding_") => {
            "an adapter of the embedding, and only linear layers of the blocks can have one"
        }
        _ if name.contains("lora_magnitude_vector") => "of DoRA, which is not supported",
        (true, "bias") => "a bias in the adapter itself (`lora_bias`), which is not supported",
        (false, "bias") => "a bias that was trained beside the adapter (`bias`), which is not supported",
        (false, "weight") => {
            "a whole layer, trained or resized beside the adapter (`modules_to_save`), which is not supported"
        }
        _ => "neither lora_A nor lora_B",
    }
}
