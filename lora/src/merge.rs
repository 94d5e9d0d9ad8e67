//! A checkpoint with an adapter merged into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::Packed;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::error::Result as ModelResult;
use burnish_models::{Checkpoint, FloatType, ModelError};
use safetensors::Dtype;

use crate::change::WeightChange;
use crate::config::LoraConfig;
use crate::error::Result;
use crate::peft::{AdapterTensors, open_weights, read_config};

/// Reads `W + scale · B A` for layers that have an adapter, and `W` for all other tensors, one tensor at a time.
///
/// The sum is computed in f32 from the stored values of all three.
pub struct MergedCheckpoint<'a> {
    base: &'a dyn Checkpoint,
    adapter: SafetensorsFolder,
    config: LoraConfig,
    /// For each layer, the names of its `A` and its `B` in the adapter file.
    layers: BTreeMap<String, [String; 2]>,
}

impl<'a> MergedCheckpoint<'a> {
    /// Opens the adapter in `folder` and checks that it fits the base.
    ///
    /// # Errors
    /// As [`load_adapter`](crate::load_adapter): [`LoraError::Mismatch`](crate::LoraError::Mismatch) and
    /// [`LoraError::Unsupported`](crate::LoraError::Unsupported) list every tensor that can't be merged.
    pub fn open(base: &'a dyn Checkpoint, folder: &Path) -> Result<Self> {
        let config = read_config(folder)?;
        let adapter = open_weights(folder)?;
        let tensors = AdapterTensors::new(folder, &adapter, &config);
        tensors.check(folder, |layer| {
            let shape = base.shape(&format!("{layer}.weight"))?;
            <[usize; 2]>::try_from(shape).ok()
        })?;
        let layers = tensors.layers;
        Ok(Self { base, adapter, config, layers })
    }

    /// The layer that a tensor is the weight of, and the names of its factors, if it has an adapter.
    fn factors_of<'b>(&self, name: &'b str) -> Option<(&'b str, &[String; 2])> {
        let layer = name.strip_suffix(".weight")?;
        Some((layer, self.layers.get(layer)?))
    }
}

impl MergedCheckpoint<'_> {
    /// How much the adapter changes the weights, against the quantisation steps of the base; `None` if no changed matrix of the base
    /// is packed.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn change(&self) -> Result<Option<WeightChange>> {
        let names = self.layers.keys().map(|layer| format!("{layer}.weight"));
        WeightChange::of(self.base, self, names)
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
        let Some((layer, [a, b])) = self.factors_of(name) else { return Ok(weight) };
        let (a, b) = (self.adapter.read_f32(a)?, self.adapter.read_f32(b)?);
        let rank = self.config.rank_of(layer);
        let inputs = a.len() / rank;
        let scale = self.config.scale_of(layer);
        for (row, factors) in weight.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
            for (factor, a_row) in factors.iter().zip(a.chunks_exact(inputs)) {
                let factor = (f64::from(*factor) * scale) as f32;
                for (weight, a) in row.iter_mut().zip(a_row) {
                    *weight += factor * a;
                }
            }
        }
        if weight.iter().all(|value| value.is_finite()) {
            return Ok(weight);
        }
        let reason = "the adapter, the base or their sum has values that are not finite";
        Err(ModelError::Mismatch { problems: vec![format!("{name}: {reason}")] })
    }

    fn read(&self, name: &str, dtype: FloatType) -> ModelResult<TensorData> {
        if self.factors_of(name).is_some() { dtype.convert(name, self.read_f32(name)?) } else { self.base.read(name, dtype) }
    }

    fn read_packed(&self, name: &str) -> ModelResult<Option<Packed>> {
        if self.factors_of(name).is_some() { Ok(None) } else { self.base.read_packed(name) }
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.base.integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> ModelResult<Vec<u8>> {
        if self.factors_of(name).is_some() {
            return Err(ModelError::Mismatch { problems: vec![format!("{name}: merged, so that it has no stored bytes")] });
        }
        self.base.read_bytes(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.base.file_of(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        [self.base.files(), self.adapter.files()].concat()
    }
}
