//! A model with its optimizer, for training on a device.

use std::path::Path;

use anyhow::{Result, anyhow};
use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{DeviceMemory, FusedBackend, exact_buffers};
use burnish_lora::{LoraConfig, save_adapter};
use burnish_models::{AnyTensor, Checkpoint, LanguageModel, NamedParameter};

use crate::batch::Batch;
use crate::objective::{LossSums, Objective};
use crate::optimizer::{AdamW, AdamWConfig, Norm, SavedMoments, read_moments};
use crate::step::{StepGradients, StepItem, Training, gradients, judged_loss, numbers};
use crate::timing::{StepTimes, Stopwatch};
use crate::weights::DeviceTensors;

/// Loss and gradient norm of a step.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// Mean loss of the step.
    pub loss: f64,
    /// Global gradient norm before clipping, without the loss scale.
    pub grad_norm: f64,
}

impl Numbers {
    /// Whether both are finite.
    pub fn are_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// A tensor in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
}

impl HostTensor {
    fn of<B: FusedBackend>(name: String, tensor: &AnyTensor<B>) -> Self {
        Self { name, shape: tensor.shape(), values: tensor.to_f32() }
    }
}

/// A model in training on any backend.
///
/// A step is [`Trainer::forward_backward`], [`Trainer::update`] and [`Trainer::finish`], in this order. The first two return as soon as
/// the work is queued on the device; the third waits for it.
pub trait Trainer: Send {
    /// Queues the loss and the gradients of a step. An objective that reads losses waits for the device in between.
    ///
    /// # Errors
    /// When the device fails while the objective reads losses.
    fn forward_backward(&mut self, item: &StepItem) -> Result<()>;

    /// The gradients of the step under the names of their parameters, multiplied by the loss scale. Empty except between
    /// [`Trainer::forward_backward`] and [`Trainer::update`].
    fn gradients(&self) -> Vec<HostTensor>;

    /// Clips the gradients and queues the update.
    fn update(&mut self, learning_rate: f64);

    /// Returns loss and gradient norm of the step. If one of them is not finite, the update changed no weight, and the caller must call
    /// [`Trainer::take_back`].
    ///
    /// # Errors
    /// When an operation failed on the device since the last read.
    fn finish(&mut self) -> Result<Numbers>;

    /// A whole step: [`Trainer::forward_backward`], [`Trainer::update`], [`Trainer::finish`] and, if necessary, [`Trainer::take_back`].
    ///
    /// # Errors
    /// Those of [`Trainer::forward_backward`] and [`Trainer::finish`].
    fn step(&mut self, item: &StepItem, learning_rate: f64) -> Result<Numbers> {
        self.forward_backward(item)?;
        self.update(learning_rate);
        let numbers = self.finish()?;
        if !numbers.are_finite() {
            self.take_back();
        }
        Ok(numbers)
    }

    /// Further metrics of the objective for the last step, by name.
    fn metrics(&self) -> &[(&'static str, f64)];

    /// How long the parts of the last step took, if it was timed.
    fn times(&self) -> Option<StepTimes>;

    /// Uncounts the last update, which changed nothing.
    fn take_back(&mut self);

    /// The loss of a batch without dropout and gradients.
    ///
    /// # Errors
    /// When the device fails.
    fn loss(&mut self, batch: &Batch, objective: &Objective) -> Result<LossSums>;

    /// The moments of all trained parameters, as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, or in eight bits as
    /// `<parameter>.state1`, `.state2`, `.absmax1` and `.absmax2`. A tensor is copied to the host only when it is read.
    fn moments(&self) -> Box<dyn Checkpoint + '_>;

    /// Restores the moments of a checkpoint, and the number of updates. Moments that it stores in another way than this optimizer are
    /// converted.
    ///
    /// # Errors
    /// When a moment is missing or has another shape than its parameter.
    fn restore_moments(&mut self, updates: usize, moments: &dyn Checkpoint) -> Result<()>;

    /// Writes the adapters as a PEFT folder.
    ///
    /// # Errors
    /// When a file can't be written, or the model has no adapters.
    fn save_adapter(&self, config: &LoraConfig, base_model: &str, folder: &Path) -> Result<()>;

    /// The weights of the base model; a tensor is copied to the host only when it is read.
    fn weights(&self) -> Box<dyn Checkpoint + '_>;

    /// Forward and backward of a step without any effect, except that kernels are compiled and that the pools of the device become as
    /// large as this step needs.
    ///
    /// # Errors
    /// When the device fails, for example because its memory is too small.
    fn rehearse(&mut self, item: &StepItem) -> Result<()>;

    /// The device memory that the backend uses, if it reports it.
    fn memory(&self) -> Option<DeviceMemory>;

    /// Returns to the device what the backend's pools hold unused.
    fn trim(&mut self);

    /// Takes exact buffers for steps from now on: micro-batches of one shape then need less memory, others more.
    fn use_exact_buffers(&mut self);
}

/// The [`Trainer`] of a backend.
pub struct ModelTrainer<B: FusedBackend> {
    model: LanguageModel<Training<B>>,
    optimizer: AdamW<Training<B>>,
    device: B::Device,
    queued: Queued<B>,
    metrics: Vec<(&'static str, f64)>,
    times: Option<StepTimes>,
    has_exact_buffers: bool,
}

/// The state of the current step.
enum Queued<B: Backend> {
    Nothing,
    Gradients { loss: Tensor<B, 1>, grads: GradientsParams, loss_scale: f64 },
    Update { loss: Tensor<B, 1>, norm: Norm<B> },
}

impl<B: FusedBackend> ModelTrainer<B> {
    /// A trainer with a fresh optimizer.
    pub fn new(model: LanguageModel<Training<B>>, optimizer: AdamWConfig, device: &B::Device) -> Self {
        let (device, has_rates) = (device.clone(), (optimizer.lora_plus_ratio - 1.0).abs() > 0.0);
        let mut optimizer = AdamW::new(optimizer);
        if has_rates {
            optimizer.set_rates(&model);
        }
        let (queued, metrics) = (Queued::Nothing, Vec::new());
        Self { model, optimizer, device, queued, metrics, times: None, has_exact_buffers: false }
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel<Training<B>> {
        &self.model
    }

    /// Does the work of a step, in exact buffers if steps have them.
    fn within<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        if !self.has_exact_buffers {
            return work(self);
        }
        let device = self.device.clone();
        exact_buffers::<B, _>(&device, || work(self))
    }
}

impl<B: FusedBackend> Trainer for ModelTrainer<B> {
    fn forward_backward(&mut self, item: &StepItem) -> Result<()> {
        let StepGradients { loss, grads, metrics, times } =
            self.within(|trainer| gradients(&trainer.model, item, &trainer.device))?;
        self.queued = Queued::Gradients { loss, grads, loss_scale: item.loss_scale };
        self.metrics = metrics;
        self.times = item.timed.then_some(times);
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
        let mut stopwatch = Stopwatch::start::<B>(self.times.is_some(), &self.device);
        self.queued = self.within(|trainer| {
            let norm = Norm::of(&trainer.model, &grads, loss_scale, &trainer.device);
            trainer.optimizer.update(&mut trainer.model, grads, &norm, &loss, learning_rate);
            Queued::Update { loss, norm }
        });
        let seconds = stopwatch.lap::<B>(&self.device);
        if let Some(times) = &mut self.times {
            times.optimizer = seconds;
        }
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

    fn times(&self) -> Option<StepTimes> {
        self.times
    }

    fn take_back(&mut self) {
        self.optimizer.take_back();
    }

    fn loss(&mut self, batch: &Batch, objective: &Objective) -> Result<LossSums> {
        judged_loss(&self.model.valid(), batch, objective, &self.device)
    }

    fn moments(&self) -> Box<dyn Checkpoint + '_> {
        let mut all = self.optimizer.moments();
        let of = |NamedParameter { name, id, tensor }: NamedParameter<Training<B>>| {
            all.remove(&id.val()).map(|moments| (name, tensor.shape(), moments))
        };
        Box::new(SavedMoments::new(self.model.parameters().into_iter().filter_map(of)))
    }

    fn restore_moments(&mut self, updates: usize, moments: &dyn Checkpoint) -> Result<()> {
        self.optimizer.set_updates(updates);
        for NamedParameter { name, id, tensor } in self.model.parameters() {
            let shape = tensor.shape();
            let kind = self.optimizer.config().moments_of(&shape);
            self.optimizer.set_moments(id.val(), read_moments(moments, &name, &shape, kind, &self.device)?);
        }
        Ok(())
    }

    fn save_adapter(&self, config: &LoraConfig, base_model: &str, folder: &Path) -> Result<()> {
        Ok(save_adapter(&self.model, config, base_model, folder)?)
    }

    fn weights(&self) -> Box<dyn Checkpoint + '_> {
        Box::new(DeviceTensors::weights(&self.model))
    }

    fn rehearse(&mut self, item: &StepItem) -> Result<()> {
        let StepGradients { loss, .. } = gradients(&self.model, item, &self.device)?;
        number(loss).map(drop)
    }

    fn memory(&self) -> Option<DeviceMemory> {
        B::device_memory(&self.device)
    }

    fn trim(&mut self) {
        B::memory_cleanup(&self.device);
    }

    fn use_exact_buffers(&mut self) {
        self.has_exact_buffers = true;
    }
}

/// Reads a single value back, like [`numbers`].
fn number<B: Backend>(tensor: Tensor<B, 1>) -> Result<f64> {
    Ok(numbers(tensor)?.iter().sum())
}
