//! Forward and backward of one optimizer step.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::{FusedBackend, TrainBackend, select_rows, squared_norm};
use burnish_models::{AdapterPass, AnyTensor, DropoutSeed, LanguageModel, ModelInput};

use crate::batch::{Batch, Targets};
use crate::checkpointing::{Checkpointing, Checkpoints};
use crate::failure::failure;
use crate::gradient_sums::GradientSums;
use crate::objective::{Judge, LossSums, Losses, MetricSums, Objective};
use crate::timing::{StepTimes, Stopwatch};

/// The backend for training: burn's autodiff, recomputing cheap values such as norms and activations in the backward pass.
pub type Training<B> = Autodiff<B, BalancedCheckpointing>;

/// The micro-batches of one optimizer step.
#[derive(Debug, Clone)]
pub struct StepItem {
    /// Number of the step, from 1.
    pub step: usize,
    /// Number of the epoch, from 0.
    pub epoch: usize,
    /// The micro-batches.
    pub batches: Vec<Batch>,
    /// Seed of dropout, combined with the step and the number of the micro-batch.
    pub seed: u64,
    /// How the loss is computed.
    pub objective: Objective,
    /// Factor on the loss in the backward pass, and thus on the gradients; 1 except in f16.
    pub loss_scale: f64,
    /// Keeps only the inputs of blocks, and computes blocks again in the backward pass; `None` keeps all that the backward needs.
    pub checkpointing: Option<Checkpointing>,
    /// Measures the parts of the step, and waits for the device after each.
    pub timed: bool,
}

impl Default for StepItem {
    /// Step 1 with seed 0, without batches, without loss scaling, checkpointing and timing.
    fn default() -> Self {
        Self {
            step: 1,
            epoch: 0,
            batches: Vec::new(),
            seed: 0,
            objective: Objective::Tokens,
            loss_scale: 1.0,
            checkpointing: None,
            timed: false,
        }
    }
}

impl StepItem {
    /// The number of items in each term of the step's loss: tokens, or what the objective counts.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for batch in &self.batches {
            let more = self.objective.counts(batch);
            counts.resize(more.len().max(counts.len()), 0);
            counts.iter_mut().zip(more).for_each(|(sum, count)| *sum += count);
        }
        counts
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.tokens).sum()
    }
}

/// The loss of every predicted token of a batch, `[tokens]`.
pub fn token_losses<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    adapters: AdapterPass,
    device: &B::Device,
) -> Tensor<B, 1> {
    let input = ModelInput { adapters, ..batch.to_input(device) };
    losses_of(model, model.hidden_states(&input, None), batch, device)
}

/// The same, from the hidden states after the last norm.
fn losses_of<B: FusedBackend>(
    model: &LanguageModel<B>,
    hidden: Tensor<B, 2>,
    batch: &Batch,
    device: &B::Device,
) -> Tensor<B, 1> {
    let Targets { positions, labels, count } = batch.to_targets(device);
    let losses = model.losses(select_rows(hidden, positions), labels);
    if losses.dims() == [count] { losses } else { losses.narrow(0, 0, count) }
}

/// The summed loss of a batch, `[1]`.
pub fn batch_loss<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    adapters: AdapterPass,
    device: &B::Device,
) -> Tensor<B, 1> {
    token_losses(model, batch, adapters, device).sum()
}

/// The results of a step's forward and backward.
pub struct StepGradients<B: TrainBackend> {
    /// Mean loss of the step, without the loss scale, `[1]`.
    pub loss: Tensor<B::InnerBackend, 1>,
    /// Gradients of all trained parameters, multiplied by `item.loss_scale`.
    pub grads: GradientsParams,
    /// Further metrics of the objective, by name.
    pub metrics: Vec<(&'static str, f64)>,
    /// The seconds of both passes, if the step is timed.
    pub times: StepTimes,
}

/// A backward pass of burn 0.21 frees what another thread's graph needs if that graph has a leaf that was in an earlier one, and a
/// gradient is then wrong or missing without an error (burn#5573). So only one thread at a time has a graph.
static ONE_GRAPH: Mutex<()> = Mutex::new(());

/// Waits until no other thread has a graph.
pub(crate) fn one_graph() -> MutexGuard<'static, ()> {
    ONE_GRAPH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Computes loss and gradients of a step. Only one thread at a time does so; others wait.
///
/// Each term of a micro-batch's loss is divided by its item count of the whole step, so the result does not depend on how rows are split
/// into micro-batches, unless an objective judges an item by the others of its micro-batch.
///
/// # Errors
/// When the device fails while the objective reads losses.
pub fn gradients<B: TrainBackend>(
    model: &LanguageModel<B>,
    item: &StepItem,
    device: &B::Device,
) -> Result<StepGradients<B>> {
    let _one = one_graph();
    let counts = item.counts();
    let mut gradients = GradientSums::default();
    let mut total: Option<Tensor<B::InnerBackend, 1>> = None;
    let mut sums = MetricSums::default();
    let (mut times, mut stopwatch) = (StepTimes::default(), Stopwatch::start::<B>(item.timed, device));
    for (index, batch) in item.batches.iter().enumerate() {
        let seed = DropoutSeed { seed: item.seed, step: item.step as u32, micro_batch: index as u32, first_row: 0 };
        // Before the forward pass of training, so that both never hold memory at the same time.
        let (labelled, known) = match &item.objective {
            Objective::Judged(judge) => {
                let labelled = judge.labelled(batch);
                let known = losses_without_gradients(&model.valid(), batch, &labelled, &**judge, device)?;
                (labelled, known)
            }
            Objective::Tokens => (Cow::Borrowed(batch), Losses::default()),
        };
        let (losses, checkpoints) =
            training_losses(model, &labelled, AdapterPass::Dropout(seed), item.checkpointing, device);
        let (loss, value) = match &item.objective {
            Objective::Tokens => {
                let loss = losses.sum().div_scalar(counts.iter().sum::<usize>() as f64);
                (loss.clone(), loss.inner())
            }
            Objective::Judged(judge) => {
                let policy = numbers(losses.clone().inner())?;
                let judgement = judge.judge(batch, &Losses { policy, ..known });
                sums.add(&judgement.metrics);
                let (value, factors) = judgement.of_step(&counts);
                let factors = factors.into_iter().map(|factor| factor as f32).collect();
                let factors = Tensor::<B, 1>::from_data(TensorData::new(factors, losses.dims()), (device, DType::F32));
                let value = Tensor::from_floats([value as f32], device);
                ((losses * factors).sum(), value)
            }
        };
        // Multiplying by 1 would be a needless launch.
        let is_scaled = (item.loss_scale - 1.0).abs() > 0.0;
        let scaled = if is_scaled { loss.mul_scalar(item.loss_scale) } else { loss };
        times.forward += stopwatch.lap::<B>(device);
        match checkpoints {
            Some(checkpoints) => checkpoints.backward(model, scaled, &mut gradients),
            None => gradients.add(model, scaled.backward()),
        }
        times.backward += stopwatch.lap::<B>(device);
        total = Some(match total {
            Some(total) => total + value,
            None => value,
        });
    }
    Ok(StepGradients {
        loss: total.unwrap_or_else(|| Tensor::zeros([1], device)),
        grads: gradients.into_inner(),
        metrics: sums.means(),
        times,
    })
}

/// [`token_losses`], with what their backward pass needs if blocks are checkpointed.
fn training_losses<B: TrainBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    pass: AdapterPass,
    checkpointing: Option<Checkpointing>,
    device: &B::Device,
) -> (Tensor<B, 1>, Option<Checkpoints<B>>) {
    let Some(checkpointing) = checkpointing else { return (token_losses(model, batch, pass, device), None) };
    let input = ModelInput { adapters: pass, ..batch.to_input(device) };
    let checkpoints = Checkpoints::forward(model, checkpointing, input);
    let hidden = model.finish(checkpoints.output().into());
    (losses_of(model, hidden, batch, device), Some(checkpoints))
}

/// The loss of a batch without gradients.
///
/// # Errors
/// When the device fails.
pub(crate) fn judged_loss<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    objective: &Objective,
    device: &B::Device,
) -> Result<LossSums> {
    match objective {
        Objective::Tokens => {
            let sum = numbers(batch_loss(model, batch, AdapterPass::Current, device))?.iter().sum();
            Ok(LossSums::of_tokens(sum, batch.target_tokens))
        }
        Objective::Judged(judge) => {
            let labelled = judge.labelled(batch);
            let known = losses_without_gradients(model, batch, &labelled, &**judge, device)?;
            let policy = numbers(token_losses(model, &labelled, AdapterPass::Current, device))?;
            Ok(LossSums::of(&judge.judge(batch, &Losses { policy, ..known }), &judge.counts(batch)))
        }
    }
}

/// The losses that an objective needs beside those of the batch itself.
fn losses_without_gradients<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    labelled: &Batch,
    judge: &dyn Judge,
    device: &B::Device,
) -> Result<Losses> {
    let read = |batch: &Batch, pass: AdapterPass| numbers(token_losses(model, batch, pass, device));
    let mut losses = Losses::default();
    let beside = judge.beside(batch);
    if judge.has_reference() {
        losses.reference = read(labelled, AdapterPass::Reference)?;
    }
    if let Some(beside) = beside.filter(|beside| beside.target_tokens > 0) {
        losses.beside = read(&beside, AdapterPass::Current)?;
        if judge.has_reference() {
            losses.beside_reference = read(&beside, AdapterPass::Reference)?;
        }
    }
    Ok(losses)
}

/// Reads values back from the device.
///
/// # Errors
/// When an operation failed on the device since the last read.
pub(crate) fn numbers<B: Backend>(tensor: Tensor<B, 1>) -> Result<Vec<f64>> {
    let data = tensor.try_into_data().map_err(|error| anyhow!(failure(error)))?;
    Ok(data.iter::<f64>().collect())
}

/// The squared norm of all gradients together, `[1]`.
pub fn squared_gradient_norm<B: TrainBackend>(
    model: &LanguageModel<B>,
    grads: &GradientsParams,
    device: &B::Device,
) -> Tensor<B::InnerBackend, 1> {
    let gradients = model.parameters().into_iter().filter_map(|parameter| match parameter.tensor {
        AnyTensor::Vector(_) => grads.get::<B::InnerBackend, 1>(parameter.id).map(|grad| grad.into_primitive().tensor()),
        AnyTensor::Matrix(_) => grads.get::<B::InnerBackend, 2>(parameter.id).map(|grad| grad.into_primitive().tensor()),
    });
    squared_norm(gradients.collect(), device)
}
