//! A checkpoint with an adapter added in, tensor by tensor.

use std::path::Path;

use burnish_models::Checkpoint;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::error::Result as ModelResult;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::peft::{AdapterTensors, read_config};

/// Reads `W + scale · B A` where the adapter has the layer, and `W` elsewhere.
pub struct MergedCheckpoint<'a> {
    base: &'a dyn Checkpoint,
    adapter: SafetensorsFolder,
    config: LoraConfig,
    layers: std::collections::BTreeMap<String, [String; 2]>,
}

impl<'a> MergedCheckpoint<'a> {
    /// Opens the adapter and checks that it fits the base.
    ///
    /// # Errors
    /// [`LoraError::Misfit`] with every tensor that does not fit.
    pub fn open(base: &'a dyn Checkpoint, folder: &Path) -> Result<Self> {
        let config = read_config(folder)?;
        let adapter = SafetensorsFolder::from_files(&[folder.join("adapter_model.safetensors")])?;
        let tensors = AdapterTensors::new(&adapter, config.rank);
        let problems = tensors.misfits(|layer| {
            let shape = base.shape(&format!("{layer}.weight"))?;
            <[usize; 2]>::try_from(shape).ok()
        });
        if !problems.is_empty() {
            return Err(LoraError::Misfit { path: folder.to_owned(), problems });
        }
        let layers = tensors.layers;
        Ok(Self { base, adapter, config, layers })
    }
}

impl Checkpoint for MergedCheckpoint<'_> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base.shape(name)
    }

    fn read_f32(&self, name: &str) -> ModelResult<Vec<f32>> {
        let mut weight = self.base.read_f32(name)?;
        let Some([a, b]) = name.strip_suffix(".weight").and_then(|layer| self.layers.get(layer)) else {
            return Ok(weight);
        };
        let (a, b) = (self.adapter.read_f32(a)?, self.adapter.read_f32(b)?);
        let rank = self.config.rank;
        let inputs = a.len() / rank;
        let scale = self.config.scale();
        for (row, factors) in weight.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
            for (factor, a_row) in factors.iter().zip(a.chunks_exact(inputs)) {
                let factor = (f64::from(*factor) * scale) as f32;
                for (weight, a) in row.iter_mut().zip(a_row) {
                    *weight += factor * a;
                }
            }
        }
        Ok(weight)
    }
}
