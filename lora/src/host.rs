//! Adapters on the host, with the base that they belong to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burnish_models::error::Result as ModelResult;
use burnish_models::part::stacked_parameters;
use burnish_models::{Checkpoint, Pretrained};

use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::{LoraError, Result};
use crate::file::{AdapterFile, ModelLayout};
use crate::layer::{Factors, initial};
use crate::peft::{AdapterTensors, LayerTensors};
use crate::stored::{open_weights, read_stored};

/// An adapter on disk that fits its base; its tensors are read one layer at a time.
pub struct HostAdapter<'a> {
    base: &'a dyn Checkpoint,
    file: AdapterFile,
    stored: LoraConfig,
    layers: BTreeMap<String, LayerTensors>,
    /// The tensor of each matrix that the adapter replaces, by its name without `.weight`.
    modules: BTreeMap<String, String>,
}

/// The adapter of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct HostLayer {
    /// The update is `scale · B A`.
    pub scale: f64,
    /// The rank of the update.
    pub rank: usize,
    /// `[rank, in]`.
    pub lora_a: Vec<f32>,
    /// `[out, rank]`.
    pub lora_b: Vec<f32>,
    /// The length of each row of the adapted weight, `[out]`, if the adapter is one of DoRA.
    pub magnitude: Option<Vec<f32>>,
}

impl HostLayer {
    /// Features before and after the layer.
    pub fn dims(&self) -> [usize; 2] {
        [self.lora_a.len() / self.rank, self.lora_b.len() / self.rank]
    }
}

impl<'a> HostAdapter<'a> {
    /// Opens a PEFT or MLX folder, and checks that it fits the base. GGUF files and adapters of experts may need the configuration of
    /// the model: see [`HostAdapter::of`].
    ///
    /// # Errors
    /// As [`load_adapter`](crate::load_adapter): [`LoraError::Mismatch`](crate::LoraError::Mismatch) and
    /// [`LoraError::Unsupported`](crate::LoraError::Unsupported) list every tensor that can't be used.
    pub fn open(base: &'a dyn Checkpoint, adapter: &Path) -> Result<Self> {
        Self::with_layout(base, adapter, None)
    }

    /// Opens a PEFT or MLX folder or a GGUF file, and checks that it fits the model.
    ///
    /// # Errors
    /// As [`HostAdapter::open`].
    pub fn of(model: &'a Pretrained, adapter: &Path) -> Result<Self> {
        let layout = ModelLayout::new(model.config.head_dim, stacked_parameters(&model.config));
        Self::with_layout(&*model.checkpoint, adapter, Some(&layout))
    }

    fn with_layout(base: &'a dyn Checkpoint, adapter: &Path, layout: Option<&ModelLayout>) -> Result<Self> {
        let stored = read_stored(adapter)?;
        if layout.is_none() && !stored.target_parameters.is_empty() {
            let reason = "the configuration of the model is needed to read adapters of parameters, such as those of experts \
                          (MergedCheckpoint::of)";
            return Err(LoraError::format(adapter, reason));
        }
        let file = open_weights(adapter, &stored, layout)?;
        let tensors = AdapterTensors::new(adapter, &file, &stored);
        let dims = |layer: &str| {
            let shape = base.shape(&format!("{layer}.weight"))?;
            <[usize; 2]>::try_from(shape).ok()
        };
        tensors.check(adapter, dims)?;
        let (modules, layers) = (tensors.trained(dims), tensors.layers);
        Ok(Self { base, file, stored, layers, modules })
    }

    /// The base.
    pub fn base(&self) -> &'a dyn Checkpoint {
        self.base
    }

    /// The configuration of the adapter on the base as it is.
    pub fn config(&self) -> LoraConfig {
        self.stored.converted()
    }

    /// The layers with an adapter, by their names without `.weight`.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The rank of a layer's adapter; 0 if it has none.
    pub fn rank_of(&self, layer: &str) -> usize {
        self.layers.get(layer).map_or(0, |tensors| tensors.rank(layer, &self.config()))
    }

    /// The factor on the update of a layer; 0 if it has none.
    pub fn scale_of(&self, layer: &str) -> f64 {
        self.layers.get(layer).map_or(0.0, |tensors| tensors.scale(layer, &self.config()))
    }

    /// Whether a layer has an adapter.
    pub fn has_layer(&self, layer: &str) -> bool {
        self.layers.contains_key(layer)
    }

    /// The matrices that were trained as a whole beside the adapters, by their names without `.weight`.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Whether the base is needed to read a layer: the adapter was stored without its initial factors.
    pub(crate) fn needs_base(&self) -> bool {
        self.stored.init.changes_base()
    }

    /// The files of the adapter.
    pub fn files(&self) -> Vec<PathBuf> {
        self.file.files()
    }

    /// The adapter of a layer on the base as it is; `None` if the layer has none.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn layer(&self, layer: &str) -> ModelResult<Option<HostLayer>> {
        let Some(tensors) = self.layers.get(layer) else { return Ok(None) };
        let weight = || self.base.read_f32(&format!("{layer}.weight"));
        let Factors { values: [lora_a, lora_b], shapes: [[rank, _], _] } = self.factors(layer, tensors, weight)?;
        let magnitude = tensors.magnitude(&self.file)?;
        Ok(Some(HostLayer { scale: tensors.scale(layer, &self.stored), rank, lora_a, lora_b, magnitude }))
    }

    /// A matrix that was trained as a whole; `None` if it was not.
    ///
    /// # Errors
    /// If the tensor can't be read.
    pub fn module(&self, module: &str) -> ModelResult<Option<Vec<f32>>> {
        self.modules.get(module).map(|tensor| self.file.read_f32(tensor)).transpose()
    }

    fn factors(
        &self,
        layer: &str,
        tensors: &LayerTensors,
        weight: impl FnOnce() -> ModelResult<Vec<f32>>,
    ) -> ModelResult<Factors> {
        let factors = tensors.factors(layer, &self.file, &self.stored)?;
        if !self.stored.init.changes_base() {
            return Ok(factors);
        }
        let [[rank, inputs], [outputs, _]] = factors.shapes;
        let weight = Matrix::of_f32(outputs, inputs, &weight()?);
        Ok(factors.minus(&initial(&self.stored, layer, &weight, rank)))
    }
}
