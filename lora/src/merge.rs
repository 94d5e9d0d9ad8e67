//! A checkpoint with an adapter merged into it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use burnish_models::error::Result as ModelResult;
use burnish_models::{Checkpoint, FloatType, ModelError, Pretrained};
use safetensors::Dtype;

use crate::change::WeightChange;
use crate::error::Result;
use crate::host::{HostAdapter, HostLayer};

/// Reads the sum of weight and update for layers that have an adapter, `W + scale · B A`, and `W` for all other tensors, one
/// tensor at a time. Each row of a DoRA layer has the length of its magnitude.
///
/// The sum is computed in f32 from the stored values of all three.
pub struct MergedCheckpoint<'a> {
    adapter: HostAdapter<'a>,
}

impl<'a> MergedCheckpoint<'a> {
    /// Opens an adapter, a PEFT or MLX folder, and checks that it fits the base.
    ///
    /// # Errors
    /// As [`HostAdapter::open`].
    pub fn open(base: &'a dyn Checkpoint, adapter: &Path) -> Result<Self> {
        Ok(Self { adapter: HostAdapter::open(base, adapter)? })
    }

    /// Opens an adapter, a PEFT or MLX folder or a GGUF file, and checks that it fits the model.
    ///
    /// # Errors
    /// As [`HostAdapter::open`].
    pub fn of(model: &'a Pretrained, adapter: &Path) -> Result<Self> {
        Ok(Self { adapter: HostAdapter::of(model, adapter)? })
    }

    fn base(&self) -> &'a dyn Checkpoint {
        self.adapter.base()
    }

    /// Whether the adapter changes a tensor.
    fn changes(&self, name: &str) -> bool {
        let is_module = |module: &str| self.adapter.modules().any(|own| own == module);
        name.strip_suffix(".weight").is_some_and(|layer| self.adapter.has_layer(layer) || is_module(layer))
    }

    /// The tensor of the merged model.
    fn merged(&self, name: &str) -> ModelResult<Vec<f32>> {
        let Some(layer) = name.strip_suffix(".weight") else { return self.base().read_f32(name) };
        if let Some(values) = self.adapter.module(layer)? {
            return Ok(values);
        }
        let mut weight = self.base().read_f32(name)?;
        if let Some(adapter) = self.adapter.layer(layer)? {
            add(&mut weight, 0, &adapter);
        }
        Ok(weight)
    }

    /// The weight, if the adapter and the base and their sum are finite.
    fn finite(&self, name: &str, weight: Vec<f32>) -> ModelResult<Vec<f32>> {
        if !self.changes(name) || weight.iter().all(|value| value.is_finite()) {
            return Ok(weight);
        }
        let reason = "the adapter, the base or their sum has values that are not finite";
        Err(ModelError::Mismatch { problems: vec![format!("{name}: {reason}")] })
    }
}

/// Adds the update of a layer to rows of its weight, from `first` on.
fn add(weight: &mut [f32], first: usize, adapter: &HostLayer) {
    let (rank, [inputs, _]) = (adapter.rank, adapter.dims());
    let rows = weight.chunks_exact_mut(inputs).zip(adapter.lora_b.chunks_exact(rank).skip(first));
    for (index, (row, factors)) in rows.enumerate() {
        for (factor, a_row) in factors.iter().zip(adapter.lora_a.chunks_exact(inputs)) {
            let factor = (f64::from(*factor) * adapter.scale) as f32;
            for (weight, a) in row.iter_mut().zip(a_row) {
                *weight += factor * a;
            }
        }
        if let Some(magnitude) = &adapter.magnitude {
            set_length(row, magnitude[first + index]);
        }
    }
}

impl MergedCheckpoint<'_> {
    /// How much the adapter changes the weights, against the quantisation steps of the base; `None` if no changed matrix of the base
    /// is packed.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn change(&self) -> Result<Option<WeightChange>> {
        let names = self.adapter.layers().map(|layer| format!("{layer}.weight"));
        WeightChange::of(self.base(), self, names)
    }
}

impl Checkpoint for MergedCheckpoint<'_> {
    fn names(&self) -> Vec<String> {
        self.base().names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base().shape(name)
    }

    fn read_f32(&self, name: &str) -> ModelResult<Vec<f32>> {
        self.finite(name, self.merged(name)?)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> ModelResult<Option<Vec<f32>>> {
        if !self.changes(name) {
            return self.base().read_rows(name, rows);
        }
        let layer = name.strip_suffix(".weight").filter(|layer| self.adapter.has_layer(layer));
        // Initial factors are computed from the whole weight.
        let Some(layer) = layer.filter(|_| !self.adapter.needs_base()) else { return Ok(None) };
        let Some(mut weight) = self.base().read_rows(name, rows.clone())? else { return Ok(None) };
        if let Some(adapter) = self.adapter.layer(layer)? {
            add(&mut weight, rows.start, &adapter);
        }
        self.finite(name, weight).map(Some)
    }

    fn read(&self, name: &str, dtype: FloatType) -> ModelResult<TensorData> {
        if self.changes(name) { dtype.convert(name, self.read_f32(name)?) } else { self.base().read(name, dtype) }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        if self.changes(name) { None } else { self.base().packed_kind(name) }
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        if self.changes(name) { None } else { self.base().float_type(name) }
    }

    fn read_packed(&self, name: &str) -> ModelResult<Option<Packed>> {
        if self.changes(name) { Ok(None) } else { self.base().read_packed(name) }
    }

    fn is_float8(&self, name: &str) -> bool {
        !self.changes(name) && self.base().is_float8(name)
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.base().integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> ModelResult<Vec<u8>> {
        if self.changes(name) {
            return Err(ModelError::Mismatch { problems: vec![format!("{name}: merged, so that it has no stored bytes")] });
        }
        self.base().read_bytes(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.base().file_of(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        [self.base().files(), self.adapter.files()].concat()
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
