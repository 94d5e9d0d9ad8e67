//! A device of a backend, and how a model gets there.

use std::path::Path;

use anyhow::{Result, bail};
use burn::tensor::backend::Backend;
use burnish_kernels::{DeviceMemory, FusedBackend};
use burnish_lora::{LoraConfig, attach, load_adapter};
use burnish_models::{Checkpoint, ComputeType, LanguageModel, LoadOptions, ModelConfig};

use crate::dtype::{known_product, supports};
use crate::optimizer::AdamWConfig;
use crate::runner::{ModelRunner, Runner};
use crate::step::Training;
use crate::trainer::{ModelTrainer, Trainer};

/// Where the weights of a model that trains whole come from.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// These.
    Of(&'a dyn Checkpoint),
    /// Fresh ones.
    Random {
        /// Decides them.
        seed: u64,
    },
}

/// What is trained of a model.
#[derive(Clone, Copy)]
pub enum TrainedPart<'a> {
    /// Every weight, in f32.
    All(Weights<'a>),
    /// Adapters on frozen weights.
    Adapters {
        /// The frozen weights.
        base: &'a dyn Checkpoint,
        /// What they are kept and computed in.
        dtype: ComputeType,
        /// The adapters.
        adapter: Adapter<'a>,
        /// The PEFT folder with the adapters of the reference model, where an objective compares with one that has some.
        reference: Option<&'a Path>,
    },
}

/// Where adapters come from.
#[derive(Clone, Copy)]
pub enum Adapter<'a> {
    /// Fresh ones.
    Fresh {
        /// Which, and how large.
        config: &'a LoraConfig,
        /// Decides their values.
        seed: u64,
    },
    /// A PEFT folder.
    Folder {
        /// The folder.
        path: &'a Path,
        /// In training, instead of what its configuration says.
        dropout: f64,
    },
}

/// A device, whatever its backend.
pub trait Device: Send + Sync {
    /// Whether it computes in a dtype: it says so, and a known product is right.
    ///
    /// One that does not say so is not tried: a cast to what it lacks may break it for the rest of the process.
    fn computes_in(&self, dtype: ComputeType) -> bool;

    /// Brings a model and an adapter, which is not merged, to the device.
    ///
    /// # Errors
    /// Whatever is wrong with the weights or the adapter.
    fn run(
        &self,
        config: &ModelConfig,
        weights: &dyn Checkpoint,
        dtype: ComputeType,
        adapter: Option<&Path>,
    ) -> Result<Box<dyn Runner>>;

    /// Brings a model that trains to the device.
    ///
    /// # Errors
    /// Whatever is wrong with the weights or the adapter.
    fn train(&self, config: &ModelConfig, part: TrainedPart<'_>, optimizer: AdamWConfig) -> Result<Box<dyn Trainer>>;

    /// What the backend holds of the device's memory, where it tells.
    fn memory(&self) -> Option<DeviceMemory>;
}

/// [`Device`] of a backend.
#[derive(Debug, Clone, Default)]
pub struct BackendDevice<B: Backend>(pub B::Device);

impl<B: FusedBackend> Device for BackendDevice<B> {
    fn computes_in(&self, dtype: ComputeType) -> bool {
        supports::<B>(&self.0, dtype) && known_product::<B>(&self.0, dtype.into()).is_ok()
    }

    fn run(
        &self,
        config: &ModelConfig,
        weights: &dyn Checkpoint,
        dtype: ComputeType,
        adapter: Option<&Path>,
    ) -> Result<Box<dyn Runner>> {
        let mut model = LanguageModel::<B>::load(config, weights, &self.0, LoadOptions::frozen(dtype))?;
        if let Some(folder) = adapter {
            load_adapter(&mut model, folder, None, &self.0)?;
        }
        Ok(Box::new(ModelRunner::new(model, &self.0)))
    }

    fn train(&self, config: &ModelConfig, part: TrainedPart<'_>, optimizer: AdamWConfig) -> Result<Box<dyn Trainer>> {
        let model = build::<B>(config, part, &self.0)?;
        Ok(Box::new(ModelTrainer::new(model, optimizer, &self.0)))
    }

    fn memory(&self) -> Option<DeviceMemory> {
        B::device_memory(&self.0)
    }
}

fn build<B: FusedBackend>(
    config: &ModelConfig,
    part: TrainedPart<'_>,
    device: &B::Device,
) -> Result<LanguageModel<Training<B>>> {
    let (base, dtype, adapter, reference) = match part {
        TrainedPart::All(Weights::Random { seed }) => return Ok(LanguageModel::random(config, seed, device)?),
        TrainedPart::All(Weights::Of(weights)) => {
            return Ok(LanguageModel::load(config, weights, device, LoadOptions::trainable())?);
        }
        TrainedPart::Adapters { base, dtype, adapter, reference } => (base, dtype, adapter, reference),
    };
    let mut model = LanguageModel::load(config, base, device, LoadOptions::frozen(dtype))?;
    if let Some(folder) = reference {
        load_adapter(&mut model, folder, None, device)?;
        for adapter in model.linears_mut().into_iter().filter_map(|(_, linear)| linear.adapter.as_mut()) {
            adapter.keep_reference();
        }
    }
    match adapter {
        Adapter::Folder { path, dropout } => {
            load_adapter(&mut model, path, Some(dropout), device)?;
        }
        Adapter::Fresh { config, seed } => {
            if attach(&mut model, config, seed, device)? == 0 {
                bail!("no layer got an adapter");
            }
        }
    }
    Ok(model)
}
