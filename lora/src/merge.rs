//! A checkpoint with an adapter merged into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::error::Result as ModelResult;
use burnish_models::{Checkpoint, FloatType, ModelError};
use safetensors::Dtype;

use crate::change::WeightChange;
use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::Result;
use crate::layer::Factors;
use crate::peft::{AdapterTensors, LayerTensors, initial, open_weights, read_stored};

/// Reads the sum of weight and update for layers that have an adapter, `W + scale · B A`, and `W` for all other tensors, one
/// tensor at a time. Each row of a DoRA layer has the length of its magnitude.
///
/// The sum is computed in f32 from the stored values of all three.
pub struct MergedCheckpoint<'a> {
    base: &'a dyn Checkpoint,
    adapter: SafetensorsFolder,
    config: LoraConfig,
    layers: BTreeMap<String, LayerTensors>,
    /// The tensor of each matrix that the adapter replaces, by its name without `.weight`.
    modules: BTreeMap<String, String>,
}

impl<'a> MergedCheckpoint<'a> {
    /// Opens the adapter in `folder` and checks that it fits the base.
    ///
    /// # Errors
    /// As [`load_adapter`](crate::load_adapter): [`LoraError::Mismatch`](crate::LoraError::Mismatch) and
    /// [`LoraError::Unsupported`](crate::LoraError::Unsupported) list every tensor that can't be merged.
    pub fn open(base: &'a dyn Checkpoint, folder: &Path) -> Result<Self> {
        let config = read_stored(folder)?;
        let adapter = open_weights(folder)?;
        let tensors = AdapterTensors::new(folder, &adapter, &config);
        let dims = |layer: &str| {
            let shape = base.shape(&format!("{layer}.weight"))?;
            <[usize; 2]>::try_from(shape).ok()
        };
        tensors.check(folder, dims)?;
        let (modules, layers) = (tensors.trained(dims), tensors.layers);
        Ok(Self { base, adapter, config, layers, modules })
    }

    /// The layer whose weight is called `name`, if it has an adapter.
    fn layer<'n>(&self, name: &'n str) -> Option<(&'n str, &LayerTensors)> {
        let layer = name.strip_suffix(".weight")?;
        Some((layer, self.layers.get(layer)?))
    }

    /// The factors of a layer on the base as it is.
    fn factors(&self, layer: &str, tensors: &LayerTensors, weight: &[f32]) -> ModelResult<Factors> {
        let factors = tensors.factors(layer, &self.adapter, &self.config)?;
        if !self.config.init.changes_base() {
            return Ok(factors);
        }
        let [[rank, inputs], [outputs, _]] = factors.shapes;
        let weight = Matrix::of_f32(outputs, inputs, weight);
        Ok(factors.minus(&initial(&self.config, layer, &weight, rank)))
    }

    /// Whether the adapter changes a tensor.
    fn changes(&self, name: &str) -> bool {
        self.layer(name).is_some() || name.strip_suffix(".weight").is_some_and(|module| self.modules.contains_key(module))
    }

    /// The tensor of the merged model.
    fn merged(&self, name: &str) -> ModelResult<Vec<f32>> {
        if let Some(tensor) = name.strip_suffix(".weight").and_then(|module| self.modules.get(module)) {
            return self.adapter.read_f32(tensor);
        }
        let mut weight = self.base.read_f32(name)?;
        let Some((layer, tensors)) = self.layer(name) else { return Ok(weight) };
        let Factors { values: [a, b], shapes: [[rank, inputs], _] } = self.factors(layer, tensors, &weight)?;
        let magnitude = tensors.magnitude(&self.adapter)?;
        let scale = self.config.scale_of(layer);
        for (index, (row, factors)) in weight.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)).enumerate() {
            for (factor, a_row) in factors.iter().zip(a.chunks_exact(inputs)) {
                let factor = (f64::from(*factor) * scale) as f32;
                for (weight, a) in row.iter_mut().zip(a_row) {
                    *weight += factor * a;
                }
            }
            if let Some(magnitude) = &magnitude {
                set_length(row, magnitude[index]);
            }
        }
        Ok(weight)
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
        let weight = self.merged(name)?;
        if !self.changes(name) || weight.iter().all(|value| value.is_finite()) {
            return Ok(weight);
        }
        let reason = "the adapter, the base or their sum has values that are not finite";
        Err(ModelError::Mismatch { problems: vec![format!("{name}: {reason}")] })
    }

    fn read(&self, name: &str, dtype: FloatType) -> ModelResult<TensorData> {
        if self.changes(name) { dtype.convert(name, self.read_f32(name)?) } else { self.base.read(name, dtype) }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        if self.changes(name) { None } else { self.base.packed_kind(name) }
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        if self.changes(name) { None } else { self.base.float_type(name) }
    }

    fn read_packed(&self, name: &str) -> ModelResult<Option<Packed>> {
        if self.changes(name) { Ok(None) } else { self.base.read_packed(name) }
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.base.integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> ModelResult<Vec<u8>> {
        if self.changes(name) {
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

/// Scales a row to that length; one of zeros stays.
fn set_length(row: &mut [f32], length: f32) {
    let squared: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    if squared > 0.0 {
        let factor = f64::from(length) / squared.sqrt();
        for value in row.iter_mut() {
            *value = (f64::from(*value) * factor) as f32;
        }
    }
}
