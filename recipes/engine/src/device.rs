//! The device of a backend, and loading models onto it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burnish_kernels::{DeviceMemory, FusedBackend, ProductTrial};
use burnish_lora::{LoraConfig, attach_to, load_adapter, resume_adapter};
use burnish_models::{Checkpoint, FloatType, LanguageModel, LoadOptions, ModelConfig};

use crate::dtype::{known_product, supports};
use crate::kernel_case::{Computed, KernelCase};
use crate::kernel_run::compute;
use crate::optimizer::AdamWConfig;
use crate::runner::{ModelRunner, Runner};
use crate::step::Training;
use crate::trainer::{ModelTrainer, Trainer};

/// The initial weights for full fine-tuning or training from scratch.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// Weights of a checkpoint.
    Of(&'a dyn Checkpoint),
    /// Random weights.
    Random {
        /// Their seed.
        seed: u64,
    },
}

/// The part of a model that is trained.
#[derive(Clone, Copy)]
pub enum TrainedPart<'a> {
    /// Every weight, in f32.
    All(Weights<'a>),
    /// Adapters on frozen weights.
    Adapters {
        /// The frozen weights.
        base: &'a dyn Checkpoint,
        /// How they are stored, and what is computed in.
        options: LoadOptions,
        /// The adapters.
        adapter: Adapter<'a>,
        /// The PEFT folder with the reference model's adapter, if the objective needs one.
        reference: Option<&'a Path>,
    },
}

/// The initial adapter.
#[derive(Clone, Copy)]
pub enum Adapter<'a> {
    /// A fresh adapter.
    Fresh {
        /// Its configuration.
        config: &'a LoraConfig,
        /// Seed of its values.
        seed: u64,
    },
    /// That of a checkpoint of the same run.
    Checkpoint {
        /// Its folder.
        path: &'a Path,
        /// The configuration of the run's adapters.
        config: &'a LoraConfig,
    },
    /// A PEFT folder.
    Folder {
        /// The folder.
        path: &'a Path,
        /// Dropout in training, which replaces the adapter's own.
        dropout: f64,
    },
}

/// A device of any backend.
pub trait Device: Send + Sync {
    /// Whether the device supports a dtype: it reports so, and a test product is correct.
    ///
    /// A dtype that is not reported is not tested: a cast to it may break the device for the rest of the process.
    fn computes_in(&self, dtype: FloatType) -> bool;

    /// Whether products with packed weights have kernels here; otherwise each unpacks its matrix on the host.
    fn computes_packed(&self) -> bool;

    /// Loads a model for inference, with an adapter that is not merged.
    ///
    /// # Errors
    /// When weights or adapter can't be loaded.
    fn run(
        &self,
        config: &ModelConfig,
        weights: &dyn Checkpoint,
        options: LoadOptions,
        adapter: Option<&Path>,
    ) -> Result<Box<dyn Runner>>;

    /// Loads a model for training.
    ///
    /// # Errors
    /// When weights or adapter can't be loaded.
    fn train(&self, config: &ModelConfig, part: TrainedPart<'_>, optimizer: AdamWConfig) -> Result<Box<dyn Trainer>>;

    /// Computes one fused operation and its gradients.
    ///
    /// # Errors
    /// When the device fails.
    fn compute(&self, case: &KernelCase, dtype: FloatType) -> Result<Computed>;

    /// The device memory that the backend uses, if it reports it.
    fn memory(&self) -> Option<DeviceMemory>;

    /// The vendor's library that computes large matrix products, with its version, if there is one.
    fn product_library(&self) -> Option<String>;

    /// Notes the products that the device computes from now on, for [`Device::product_trials`].
    fn note_products(&self);

    /// The classes of the products that were noted, each to be tried with the device's candidates; empty where there is nothing to choose.
    fn product_trials(&self) -> Vec<Box<dyn ProductTrial>>;

    /// Computes products of these classes by these candidates from now on, and all others by default.
    fn choose_products(&self, chosen: &BTreeMap<String, String>);
}

/// The [`Device`] of a backend.
#[derive(Debug, Clone, Default)]
pub struct BackendDevice<B: Backend>(pub B::Device);

impl<B: FusedBackend> Device for BackendDevice<B> {
    fn computes_in(&self, dtype: FloatType) -> bool {
        supports::<B>(&self.0, dtype) && known_product::<B>(&self.0, dtype.into()).is_ok()
    }

    fn computes_packed(&self) -> bool {
        B::PACKED_KERNELS
    }

    fn run(
        &self,
        config: &ModelConfig,
        weights: &dyn Checkpoint,
        options: LoadOptions,
        adapter: Option<&Path>,
    ) -> Result<Box<dyn Runner>> {
        let base = ModelRunner::new(LanguageModel::<B>::load(config, weights, &self.0, options)?, &self.0);
        match adapter {
            Some(adapter) => base.with_adapter(adapter),
            None => Ok(Box::new(base)),
        }
    }

    fn train(&self, config: &ModelConfig, part: TrainedPart<'_>, optimizer: AdamWConfig) -> Result<Box<dyn Trainer>> {
        let model = build::<B>(config, part, &self.0)?;
        Ok(Box::new(ModelTrainer::new(model, optimizer, &self.0)))
    }

    fn compute(&self, case: &KernelCase, dtype: FloatType) -> Result<Computed> {
        compute::<B>(case, dtype.into(), &self.0)
    }

    fn memory(&self) -> Option<DeviceMemory> {
        B::device_memory(&self.0)
    }

    fn product_library(&self) -> Option<String> {
        B::product_library(&self.0)
    }

    fn note_products(&self) {
        B::note_products(&self.0);
    }

    fn product_trials(&self) -> Vec<Box<dyn ProductTrial>> {
        B::product_trials(&self.0)
    }

    fn choose_products(&self, chosen: &BTreeMap<String, String>) {
        B::choose_products(&self.0, chosen);
    }
}

/// burn's own backend for the CPU, compiled into this crate once for all programs that train on it.
pub fn cpu() -> Box<dyn Device> {
    Box::new(BackendDevice::<Flex>::default())
}

fn build<B: FusedBackend>(
    config: &ModelConfig,
    part: TrainedPart<'_>,
    device: &B::Device,
) -> Result<LanguageModel<Training<B>>> {
    let (base, options, adapter, reference) = match part {
        TrainedPart::All(Weights::Random { seed }) => return Ok(LanguageModel::random(config, seed, device)?),
        TrainedPart::All(Weights::Of(weights)) => {
            return Ok(LanguageModel::load(config, weights, device, LoadOptions::trainable())?);
        }
        TrainedPart::Adapters { base, options, adapter, reference } => (base, options, adapter, reference),
    };
    let mut model = LanguageModel::load(config, base, device, options)?;
    if let Some(folder) = reference {
        if !load_adapter(&mut model, folder, None, device)?.modules_to_save.is_empty() {
            bail!(
                "{}: a reference with an embedding or a head of its own (`modules_to_save`) is not supported",
                folder.display()
            );
        }
        model.keep_reference();
    }
    match adapter {
        Adapter::Checkpoint { path, config } => resume_adapter(&mut model, config, path, device)?,
        Adapter::Folder { path, dropout } => {
            load_adapter(&mut model, path, Some(dropout), device)?;
        }
        Adapter::Fresh { config, seed } => {
            if attach_to(&mut model, config, seed, base, device)? == 0 {
                bail!("no layer matches the target modules, so there is nothing to train");
            }
        }
    }
    Ok(model)
}
