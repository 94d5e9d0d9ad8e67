//! The tensors of an adapter file.

use std::collections::BTreeMap;
use std::path::Path;

use burnish_kernels::FusedBackend;
use burnish_models::checkpoint::{SafetensorsFolder, in_text_model, is_of_text_part};
use burnish_models::{Checkpoint, LanguageModel};

use super::names::{FACTORS, PREFIX, WEIGHTS};
use crate::attach::is_named;
use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};

/// Opens the weights of an adapter.
pub(crate) fn open_weights(folder: &Path) -> Result<SafetensorsFolder> {
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let reason = format!(
            "expected {WEIGHTS}, got adapter_model.bin, which is not read; loading the adapter with PEFT and calling \
             save_pretrained(folder) converts it"
        );
        return Err(LoraError::format(folder, reason));
    }
    Ok(SafetensorsFolder::from_files(&[path])?)
}

/// The tensors of an adapter file, grouped by layer.
pub(crate) struct AdapterTensors<'a> {
    checkpoint: &'a SafetensorsFolder,
    config: &'a LoraConfig,
    /// For each layer of the model, the names of its `A` and its `B` in the file; an absent one is empty.
    pub(crate) layers: BTreeMap<String, [String; 2]>,
    /// What is wrong with each tensor that can't be used.
    unsupported: Vec<String>,
}

impl<'a> AdapterTensors<'a> {
    /// Groups the tensors of the adapter in `folder` by layer.
    ///
    /// The adapter of a multimodal model is read as that of its text part, as its base is.
    pub(crate) fn new(folder: &Path, checkpoint: &'a SafetensorsFolder, config: &'a LoraConfig) -> Self {
        let mut found = Self { checkpoint, config, layers: BTreeMap::new(), unsupported: Vec::new() };
        let stored = checkpoint.names();
        let is_multimodal = stored.iter().any(|tensor| is_of_text_part(&module_name(tensor)));
        let mut left_out = 0;
        for tensor in stored {
            let name = module_name(&tensor);
            if !is_multimodal {
                found.add(tensor, &name, &name);
            } else if let Some(own) = in_text_model(&name) {
                found.add(tensor, &own, &name);
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 {
            tracing::warn!(
                "{}: this adapter is for a multimodal model; {left_out} tensors outside its text part are not read",
                folder.display()
            );
        }
        found
    }

    /// Adds a tensor that is called `own` in the model, and `name` in the model that the adapter was trained on.
    fn add(&mut self, tensor: String, own: &str, name: &str) {
        let Some(index) = FACTORS.iter().position(|end| own.ends_with(end)) else {
            self.unsupported.push(format!("{tensor}: {}", describe_unsupported(own)));
            return;
        };
        let [layer, trained] = [own, name].map(|name| &name[..name.len() - FACTORS[index].len()]);
        let values = |layer: &str| (self.config.rank_of(layer), self.config.scale_of(layer).to_bits());
        if values(layer) != values(trained) {
            self.unsupported.push(format!(
                "{tensor}: `rank_pattern` or `alpha_pattern` names it as a layer of a multimodal model, which is not supported"
            ));
        }
        if let TargetModules::Named(targets) = &self.config.target_modules
            && !targets.iter().any(|target| is_named(trained, target))
        {
            self.unsupported.push(format!("{tensor}: `target_modules` does not name its layer, so that PEFT ignores it"));
        }
        let slot = &mut self.layers.entry(layer.to_owned()).or_default()[index];
        if slot.is_empty() {
            *slot = tensor;
        } else {
            self.unsupported.push(format!("{tensor}: the file also has {slot}, which is the same factor"));
        }
    }

    /// Checks that the adapter, which is in `folder`, fits the layers of a model.
    pub(super) fn check_model<B: FusedBackend>(&self, folder: &Path, model: &LanguageModel<B>) -> Result<()> {
        let dims: BTreeMap<String, [usize; 2]> =
            model.linears().into_iter().map(|(name, linear)| (name, linear.dims())).collect();
        self.check(folder, |layer| dims.get(layer).copied())
    }

    /// As [`AdapterTensors::check_model`]; `dims` returns the `[out, in]` of a layer that the model has.
    pub(crate) fn check(&self, folder: &Path, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Result<()> {
        // A checkpoint has these weights too: merging would use an adapter that an attached one can't have.
        let outside = self.layers.keys().filter(|layer| {
            let last = layer.rsplit('.').next().unwrap_or_default();
            ["lm_head", "embed_tokens"].contains(&last)
        });
        let outside = outside.map(|layer| format!("{layer}: only linear layers of the blocks can have an adapter"));
        let unsupported: Vec<String> = self.unsupported.iter().cloned().chain(outside).collect();
        if !unsupported.is_empty() {
            return Err(LoraError::Unsupported { path: folder.to_owned(), problems: unsupported });
        }
        let problems = self.mismatches(dims);
        if problems.is_empty() { Ok(()) } else { Err(LoraError::Mismatch { path: folder.to_owned(), problems }) }
    }

    fn mismatches(&self, dims: impl Fn(&str) -> Option<[usize; 2]>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.layers.is_empty() {
            problems.push("it has no tensors".to_owned());
        }
        for (layer, [a, b]) in &self.layers {
            if a.is_empty() || b.is_empty() {
                problems.push(format!("{layer}: expected lora_A and lora_B, got only one of them"));
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
                    problems.push(format!("{tensor}: expected {expected:?}, got {shape:?}"));
                }
            }
        }
        problems
    }
}

/// The name of a tensor in the model that the adapter was trained on.
fn module_name(tensor: &str) -> String {
    tensor.strip_prefix(PREFIX).unwrap_or(tensor).replace(".default.", ".")
}

/// Says what a tensor is that is not a factor of a linear layer.
fn describe_unsupported(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or_default();
    match (name.contains("lora_"), last) {
        _ if name.contains("lora_embedding_") => {
            "an adapter of the embedding; only linear layers of the blocks can have an adapter"
        }
        _ if name.contains("lora_magnitude_vector") => "the magnitudes of DoRA, which is not supported",
        (true, "bias") => "a bias in the adapter itself (`lora_bias`), which is not supported",
        (false, "bias") => "a bias that was trained beside the adapter (`bias`), which is not supported",
        (false, "weight") => {
            "a whole layer that was trained or resized beside the adapter (`modules_to_save`), which is not supported"
        }
        _ => "neither lora_A nor lora_B",
    }
}
