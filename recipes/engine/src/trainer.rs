//! A model that trains on a device.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{DeviceMemory, FusedBackend};
use burnish_lora::{LoraConfig, save_adapter};
use burnish_models::{AnyTensor, Checkpoint, LanguageModel, NamedParameter};

use crate::batch::Batch;
use crate::objective::Objective;
use crate::optimizer::{AdamW, AdamWConfig, Moments, Norm};
use crate::step::{StepGradients, StepItem, Training, gradients, judged_loss, numbers};
use crate::weights::ModelWeights;

/// What a step is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// Mean loss of the step's tokens.
    pub loss: f64,
    /// Norm of its gradients before they were clipped, all parameters together, without the loss scale.
    pub grad_norm: f64,
}

impl Numbers {
    /// Whether both are finite.
    pub fn are_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// A tensor in the memory of the host, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its name.
    pub name: String,
    /// Its dims.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
}

impl HostTensor {
    fn of<B: FusedBackend>(name: String, tensor: &AnyTensor<B>) -> Self {
        Self { name, shape: tensor.shape(), values: tensor.to_f32() }
    }
}

/// A model that trains, whatever its backend.
///
/// A step is [`Trainer::forward_backward`], [`Trainer::update`], [`Trainer::finish`], in this order. The first two return as soon as
/// the device has its work queued; the third waits for it.
pub trait Trainer: Send {
    /// Computes the loss and the gradients of a step. An objective that looks at losses waits for the device in between.
    ///
    /// # Errors
    /// When an objective reads losses and the device fails.
    fn forward_backward(&mut self, item: &StepItem) -> Result<()>;

    /// The gradients of the step, under the names of their parameters, with the loss scale still in them: between
    /// [`Trainer::forward_backward`] and [`Trainer::update`], else none.
    fn gradients(&self) -> Vec<HostTensor>;

    /// Clips the gradients and updates what trains.
    fn update(&mut self, learning_rate: f64);

    /// Loss and gradient norm of the step. Where one of them is not finite, the update changed no weight, and the caller must
    /// [`Trainer::take_back`] it.
    ///
    /// # Errors
    /// What broke on the device since the last read.
    fn finish(&mut self) -> Result<Numbers>;

    /// A whole step, where nothing is to be done in between: forward, backward, update, and the numbers.
    ///
    /// # Errors
    /// As [`Trainer::forward_backward`] and [`Trainer::finish`].
    fn step(&mut self, item: &StepItem, learning_rate: f64) -> Result<Numbers> {
        self.forward_backward(item)?;
        self.update(learning_rate);
        let numbers = self.finish()?;
        if !numbers.are_finite() {
            self.take_back();
        }
        Ok(numbers)
    }

    /// What the objective tells of the last step besides its loss, by name.
    fn metrics(&self) -> &[(&'static str, f64)];

    /// The last update changed nothing: it does not count.
    fn take_back(&mut self);

    /// The loss of a batch, without dropout and without gradients: a sum over what the objective counts.
    ///
    /// # Errors
    /// When the device fails.
    fn loss(&mut self, batch: &Batch, objective: &Objective) -> Result<f64>;

    /// The moments of everything that trains, as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.
    fn moments(&self) -> Vec<HostTensor>;

    /// Goes on from the moments of a checkpoint, after so many updates.
    ///
    /// # Errors
    /// When a moment is missing or has another shape than its parameter.
    fn restore_moments(&mut self, updates: usize, moments: &dyn Checkpoint) -> Result<()>;

    /// Writes the adapters as a PEFT folder.
    ///
    /// # Errors
    /// When the disk refuses, or the model has none.
    fn save_adapter(&self, config: &LoraConfig, base_model: &str, folder: &Path) -> Result<()>;

    /// The weights of the base, where it trains: nothing is copied before it is read.
    fn weights(&self) -> Box<dyn Checkpoint + '_>;

    /// What the backend holds of its device's memory, where it tells.
    fn memory(&self) -> Option<DeviceMemory>;
}

/// [`Trainer`] on a backend.
pub struct ModelTrainer<B: FusedBackend> {
    model: LanguageModel<Training<B>>,
    optimizer: AdamW<Training<B>>,
    device: B::Device,
    queued: Queued<B>,
    metrics: Vec<(&'static str, f64)>,
}

/// How far the current step is.
enum Queued<B: Backend> {
    Nothing,
    Gradients { loss: Tensor<B, 1>, grads: GradientsParams, loss_scale: f64 },
    Update { loss: Tensor<B, 1>, norm: Norm<B> },
}

impl<B: FusedBackend> ModelTrainer<B> {
    /// Trains a model with a fresh optimizer.
    pub fn new(model: LanguageModel<Training<B>>, optimizer: AdamWConfig, device: &B::Device) -> Self {
        let device = device.clone();
        Self { model, optimizer: AdamW::new(optimizer), device, queued: Queued::Nothing, metrics: Vec::new() }
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel<Training<B>> {
        &self.model
    }
}

impl<B: FusedBackend> Trainer for ModelTrainer<B> {
    fn forward_backward(&mut self, item: &StepItem) -> Result<()> {
        let StepGradients { loss, grads, metrics } = gradients(&self.model, item, &self.device)?;
        self.queued = Queued::Gradients { loss, grads, loss_scale: item.loss_scale };
        self.metrics = metrics;
        Ok(())
    }

    fn gradients(&self) -> Vec<HostTensor> {
        let Queued::Gradients { grads, .. } = &self.queued else { return Vec::new() };
        let parameters = self.model.parameters().into_iter();
        let gradients = parameters.filter_map(|NamedParameter { name, id, tensor }| {
            let gradient = match tensor {
                AnyTensor::Vector(_) => AnyTensor::Vector(grads.get::<B, 1>(id)?),
                AnyTensor::Matrix(_) => AnyTensor::Matrix(grads.get::<B, 2>(id)?),
            };
            Some(HostTensor::of(name, &gradient))
        });
        gradients.collect()
    }

    fn update(&mut self, learning_rate: f64) {
        let Queued::Gradients { loss, grads, loss_scale } = std::mem::replace(&mut self.queued, Queued::Nothing) else {
            return;
        };
        let norm = Norm::of(&self.model, &grads, loss_scale, &self.device);
        self.model = self.optimizer.update(self.model.clone(), grads, &norm, &loss, learning_rate);
        self.queued = Queued::Update { loss, norm };
    }

    fn finish(&mut self) -> Result<Numbers> {
        match std::mem::replace(&mut self.queued, Queued::Nothing) {
            Queued::Update { loss, norm } => {
                Ok(Numbers { loss: number(loss)?, grad_norm: number(norm.squares)?.sqrt() / norm.loss_scale })
            }
            Queued::Nothing | Queued::Gradients { .. } => Err(anyhow!("no update is queued")),
        }
    }

    fn metrics(&self) -> &[(&'static str, f64)] {
        &self.metrics
    }

    fn take_back(&mut self) {
        self.optimizer.take_back();
    }

    fn loss(&mut self, batch: &Batch, objective: &Objective) -> Result<f64> {
        judged_loss(&self.model.valid(), batch, objective, &self.device)
    }

    fn moments(&self) -> Vec<HostTensor> {
        let all = self.optimizer.moments();
        let parameters = self.model.parameters().into_iter();
        let of = |name: String, moments: &Moments<B>| {
            [("exp_avg", &moments.exp_avg), ("exp_avg_sq", &moments.exp_avg_sq)]
                .map(|(kind, tensor)| HostTensor::of(format!("{name}.{kind}"), tensor))
        };
        parameters.filter_map(|parameter| Some(of(parameter.name, all.get(&parameter.id.val())?))).flatten().collect()
    }

    fn restore_moments(&mut self, updates: usize, moments: &dyn Checkpoint) -> Result<()> {
        self.optimizer.set_updates(updates);
        for parameter in self.model.parameters() {
            let shape = parameter.tensor.shape();
            let read = |kind: &str| -> Result<AnyTensor<B>> {
                let name = format!("{}.{kind}", parameter.name);
                if moments.shape(&name).as_ref() != Some(&shape) {
                    bail!("`{name}` does not fit {shape:?}");
                }
                AnyTensor::from_f32(moments.read_f32(&name)?, &shape, &self.device).context("a parameter of rank 1 or 2")
            };
            let moments = Moments { exp_avg: read("exp_avg")?, exp_avg_sq: read("exp_avg_sq")? };
            self.optimizer.set_moments(parameter.id.val(), moments);
        }
        Ok(())
    }

    fn save_adapter(&self, config: &LoraConfig, base_model: &str, folder: &Path) -> Result<()> {
        Ok(save_adapter(&self.model, config, base_model, folder)?)
    }

    fn weights(&self) -> Box<dyn Checkpoint + '_> {
        Box::new(ModelWeights::of(&self.model))
    }

    fn memory(&self) -> Option<DeviceMemory> {
        B::device_memory(&self.device)
    }
}

/// Reads a number back, as [`numbers`].
fn number<B: Backend>(tensor: Tensor<B, 1>) -> Result<f64> {
    Ok(numbers(tensor)?.iter().sum())
}
