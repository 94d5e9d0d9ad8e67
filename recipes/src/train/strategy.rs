//! burn-train's learner, step by step: clipping, metrics, validation, checkpoints, interruption.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_train::{
    EventProcessorTraining, Learner, LearnerEvent, LearningComponentsMarker, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use burnish_kernels::{TrainBackend, squared_norm};
use burnish_models::{AnyTensor, LanguageModel};

use super::checkpoint::{Checkpoint, TrainerState};
use super::evaluate::{Evaluation, evaluate};
use super::metrics::{MetricsFile, StepMetrics, peak_bytes};
use super::model::{StepItem, TrainedModel};
use super::optimizer::{AdamW, Numbers, number};
use super::schedule::Schedule;
use crate::config::TrainConfig;
use crate::data::{Batches, Epoch};

/// What the learner is made of.
pub type Components<B> = LearningComponentsMarker<B, Schedule, TrainedModel<B>, AdamW<B>>;

/// What a run tells whoever watches.
pub trait Events: Send {
    /// A step was taken.
    fn step(&mut self, metrics: &StepMetrics, total: usize);
    /// A validation ended.
    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool);
    /// A checkpoint was written.
    fn checkpoint(&mut self, path: &Path);
    /// Anything else worth a line.
    fn note(&mut self, line: &str);
}

/// Which steps a run takes.
#[derive(Clone)]
pub struct Plan {
    /// The data.
    pub batches: Arc<Batches>,
    /// Micro-steps of an optimizer step.
    pub accumulation: usize,
    /// Optimizer steps of the whole run.
    pub total: usize,
    /// Steps already taken.
    pub done: usize,
    /// Seeds dropout.
    pub seed: u64,
}

impl Plan {
    /// Counts the steps: `iters`, or all of the epochs.
    pub fn new(config: &TrainConfig, batches: Arc<Batches>, done: usize) -> Self {
        let accumulation = config.grad_accumulation_steps;
        let total = if config.iters > 0 { config.iters } else { config.epochs * batches.steps_per_epoch(accumulation) };
        Self { batches, accumulation, total, done, seed: config.seed }
    }
}

/// Yields the steps that are left.
struct Steps {
    plan: Plan,
    step: usize,
    /// The epoch of the last step: ordering all rows takes a while.
    epoch: Option<Epoch<Arc<Batches>>>,
}

impl Iterator for Steps {
    type Item = StepItem;

    fn next(&mut self) -> Option<StepItem> {
        if self.step >= self.plan.total {
            return None;
        }
        let batches = &self.plan.batches;
        let each = batches.steps_per_epoch(self.plan.accumulation);
        let (epoch, within) = (self.step / each, self.step % each);
        self.step += 1;
        let order = match self.epoch.take() {
            Some(order) if order.number() == epoch => order,
            _ => Batches::epoch(batches.clone(), epoch),
        };
        let batches = batches.of_step(within, self.plan.accumulation).map(|index| order.batch(index)).collect();
        self.epoch = Some(order);
        Some(StepItem { step: self.step, epoch, batches, seed: self.plan.seed, loss_scale: 1.0 })
    }
}

impl DataLoaderIterator<StepItem> for Steps {
    fn progress(&self) -> Progress {
        Progress::new(self.step, self.plan.total)
    }
}

impl<B: Backend> DataLoader<B, StepItem> for Plan {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<StepItem> + 'a> {
        Box::new(Steps { plan: self.clone(), step: self.done, epoch: None })
    }

    fn num_items(&self) -> usize {
        self.total
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, StepItem>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B, StepItem>> {
        Arc::new(Self { done: start, total: end.min(self.total), ..self.clone() })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps were taken.
    Finished,
    /// The validation loss no longer fell.
    EarlyStop,
    /// The user asked for it.
    Interrupted,
}

/// Writes the trained tensors of a model into a folder.
pub type WeightWriter<B> = Box<dyn Fn(&LanguageModel<B>, &Path) -> Result<()> + Send + Sync>;

/// The loop.
pub struct StepStrategy<B: TrainBackend> {
    /// The effective configuration.
    pub config: TrainConfig,
    /// Held-out batches.
    pub valid: Option<Arc<Batches>>,
    /// Shares its state with the learner's.
    pub optimizer: AdamW<B>,
    /// Writes the trained tensors of a checkpoint.
    pub save_weights: WeightWriter<B>,
    /// Moves while the run goes on.
    pub progress: Arc<Mutex<Running>>,
    /// Who watches.
    pub events: Arc<Mutex<dyn Events>>,
}

/// What a run knows of itself, and what it ends with.
#[derive(Debug)]
pub struct Running {
    /// Where the run stands.
    pub state: TrainerState,
    /// How it ended.
    pub end: End,
    /// What broke it.
    pub error: Option<anyhow::Error>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The best step, where the run ended with its weights and not with the last.
    pub best_taken: Option<usize>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
}

/// A lock that a panicking thread can't spoil.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: TrainBackend> SupervisedLearningStrategy<Components<B>> for StepStrategy<B> {
    fn fit(
        &self,
        components: TrainingComponents<Components<B>>,
        mut learner: Learner<Components<B>>,
        train: TrainLoader<Components<B>>,
        _valid: ValidLoader<Components<B>>,
        _starting_epoch: usize,
    ) -> (TrainedModel<B>, SupervisedTrainingEventProcessor<Components<B>>) {
        let mut processor = components.event_processor;
        let outcome = self.steps(&components.interrupter, &mut learner, &train, &mut processor);
        if let Err(error) = outcome {
            lock(&self.progress).error = Some(error);
        }
        (learner.model(), processor)
    }
}

impl<B: TrainBackend> StepStrategy<B> {
    fn steps(
        &self,
        interrupter: &burn_train::Interrupter,
        learner: &mut Learner<Components<B>>,
        train: &TrainLoader<Components<B>>,
        processor: &mut SupervisedTrainingEventProcessor<Components<B>>,
    ) -> Result<()> {
        let run = PathBuf::from(&self.config.output_dir);
        if self.has_lost_patience() {
            // Resumed after it had ended.
            lock(&self.progress).end = End::EarlyStop;
            return Ok(());
        }
        let mut file = MetricsFile::open(&run, lock(&self.progress).state.step)?;
        let mut steps = train.iter();
        let total = steps.progress().items_total;
        let mut saved = lock(&self.progress).state.step;
        while let Some(item) = steps.next() {
            let (step, epoch, tokens) = (item.step, item.epoch, item.tokens());
            let metrics = self.one_step(learner, item, processor, steps.progress())?;
            file.write(&metrics)?;
            let previous = {
                let mut progress = lock(&self.progress);
                let previous = progress.state.epoch;
                progress.state.step = step;
                progress.state.epoch = epoch;
                progress.state.tokens += tokens as u64;
                progress.last_loss = Some(metrics.loss);
                previous
            };
            if epoch > previous {
                processor.process_train(LearnerEvent::EndEpoch(previous + 1));
            }
            lock(&self.events).step(&metrics, total);
            let (mut stop, mut best) = (false, false);
            if is_due(self.config.steps_per_eval, step) || (step == total && self.config.steps_per_eval > 0) {
                (stop, best) = self.validate(learner, step)?;
            }
            let interrupted = interrupter.should_stop();
            if interrupted {
                lock(&self.progress).end = End::Interrupted;
            } else if stop {
                lock(&self.progress).end = End::EarlyStop;
            }
            let last = step == total || interrupted || stop;
            // What the run shall end with is on the disk, and so is its end.
            let result = self.config.ends_with_best() && (best || stop);
            let due = is_due(self.config.save_every, step) || (self.config.save_every > 0 && (best || last));
            if due || interrupted || result {
                self.save(&learner.model().model)?;
                saved = step;
            }
            if interrupted || stop {
                break;
            }
        }
        // Interrupted before the first step of this process: nothing new to save.
        if interrupter.should_stop() && saved == lock(&self.progress).state.step {
            lock(&self.progress).end = End::Interrupted;
        }
        Ok(())
    }

    /// Forward, backward, clipping and update.
    fn one_step(
        &self,
        learner: &mut Learner<Components<B>>,
        mut item: StepItem,
        processor: &mut SupervisedTrainingEventProcessor<Components<B>>,
        progress: Progress,
    ) -> Result<StepMetrics> {
        let started = Instant::now();
        let (step, epoch, tokens) = (item.step, item.epoch, item.tokens());
        learner.lr_step();
        let loss_scale = lock(&self.progress).state.loss_scale.as_ref().map_or(1.0, |loss_scale| loss_scale.scale);
        item.loss_scale = loss_scale;
        let output = learner.train_step(item);
        let squares = squared_gradient_norm(&learner.model().model, &output.grads);
        let update = || learner.optimizer_step(output.grads);
        let queued = self.optimizer.queue(squares, output.item.loss.clone(), loss_scale, update);
        let Numbers { loss, grad_norm } = queued.map_err(hinted)?;
        if !self.is_taken(step, loss, grad_norm)? {
            self.optimizer.state().take_back();
        }
        let learning_rate = learner.lr_current();
        let global = Progress::new(epoch + 1, self.config.epochs.max(epoch + 1));
        let item = TrainingItem::new(output.item, progress, global, Some(step), Some(learning_rate));
        processor.process_train(LearnerEvent::ProcessedItem(item));
        let seconds = started.elapsed().as_secs_f64();
        Ok(StepMetrics {
            step,
            loss,
            learning_rate,
            grad_norm,
            tokens,
            tokens_per_second: tokens as f64 / seconds,
            step_ms: seconds * 1e3,
            peak_bytes: peak_bytes(),
            skipped: lock(&self.progress).state.skipped,
        })
    }

    /// Whether a step is taken: its loss and its gradient are numbers. Where the gradient of a scaled loss overflowed, the
    /// step is skipped, and the scale halved.
    ///
    /// # Errors
    /// When the loss is no number, or the gradient is none and no scale helps.
    fn is_taken(&self, step: usize, loss: f64, grad_norm: f64) -> Result<bool> {
        let is_finite = loss.is_finite() && grad_norm.is_finite();
        let mut progress = lock(&self.progress);
        let state = &mut progress.state;
        let is_half = state.loss_scale.is_some();
        match &mut state.loss_scale {
            Some(loss_scale) if is_finite => loss_scale.step_taken(),
            // The scale comes after the loss: one that is no number would stay none.
            Some(loss_scale) if loss.is_finite() => {
                loss_scale.step_skipped();
                if !loss_scale.is_exhausted() {
                    state.skipped += 1;
                    let line = format!(
                        "step {step} is skipped, {} so far: its gradient overflowed f16; the loss scale is {} now",
                        state.skipped, loss_scale.scale
                    );
                    drop(progress);
                    lock(&self.events).note(&line);
                    return Ok(false);
                }
            }
            _ => {}
        }
        if is_finite { Ok(true) } else { Err(no_number(step, loss, grad_norm, is_half)) }
    }

    /// Validates; whether the run should end, and whether no step before was better.
    fn validate(&self, learner: &Learner<Components<B>>, step: usize) -> Result<(bool, bool)> {
        let Some(batches) = &self.valid else { return Ok((false, false)) };
        let model = learner.model().valid().model;
        let device = model.head().device();
        let evaluation = evaluate(&model, batches, self.config.val_batches, &device, |_, _| {})?;
        let mut progress = lock(&self.progress);
        let best = progress.state.best_loss.is_none_or(|best| evaluation.loss < best);
        if best {
            progress.state.best_loss = Some(evaluation.loss);
            progress.state.best_step = Some(step);
            progress.state.without_improvement = 0;
        } else {
            progress.state.without_improvement += 1;
        }
        drop(progress);
        lock(&self.events).evaluation(step, &evaluation, best);
        Ok((self.has_lost_patience(), best))
    }

    /// Whether the validation loss did not fall often enough for the run to end.
    fn has_lost_patience(&self) -> bool {
        let patience = self.config.early_stopping;
        patience > 0 && lock(&self.progress).state.without_improvement >= patience
    }

    fn save(&self, model: &LanguageModel<B>) -> Result<()> {
        let run = PathBuf::from(&self.config.output_dir);
        let state = lock(&self.progress).state.clone();
        let parameters = model.parameters();
        let path = Checkpoint::save(&run, &state, &self.config.to_toml(), &self.optimizer, &parameters, |folder| {
            (self.save_weights)(model, folder)
        })?;
        Checkpoint::prune(&run, self.config.save_total_limit, state.best_step)?;
        lock(&self.events).checkpoint(&path);
        lock(&self.progress).checkpoint = Some(path);
        Ok(())
    }
}

fn is_due(every: usize, step: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// What ends a run whose numbers are none.
fn no_number(step: usize, loss: f64, grad_norm: f64, is_half: bool) -> anyhow::Error {
    let what = if loss.is_finite() { "gradient" } else { "loss" };
    let dtype = if is_half { "take dtype bf16 or f32, which reach further than f16, " } else { "" };
    crate::hint::with_hint(
        format!(
            "the {what} of step {step} is not a number (loss {loss}, gradient norm {grad_norm}); the step was not taken"
        ),
        format!("{dtype}lower learning_rate, raise warmup, or look at the rows of this step; the last checkpoint is whole"),
    )
}

/// Reads a number back.
///
/// # Errors
/// What broke on the device since the last read, in its own words, and what to do.
pub fn scalar<B: Backend>(tensor: Tensor<B, 1>) -> Result<f64> {
    number(tensor).map_err(hinted)
}

/// What broke on the device, and what to do.
fn hinted(error: anyhow::Error) -> anyhow::Error {
    crate::hint::with_hint(
        error.to_string(),
        "the last checkpoint is whole: --resume auto continues; --backend cpu runs everywhere; if memory ran out, lower \
         batch_size or max_seq_length",
    )
}

/// The squared length of all gradients together, `[1]`.
pub fn squared_gradient_norm<B: TrainBackend>(
    model: &LanguageModel<B>,
    grads: &GradientsParams,
) -> Tensor<B::InnerBackend, 1> {
    let gradients = model.parameters().into_iter().filter_map(|parameter| match parameter.tensor {
        AnyTensor::Vector(_) => grads.get::<B::InnerBackend, 1>(parameter.id).map(|grad| grad.into_primitive().tensor()),
        AnyTensor::Matrix(_) => grads.get::<B::InnerBackend, 2>(parameter.id).map(|grad| grad.into_primitive().tensor()),
    });
    squared_norm(gradients.collect(), &model.head().device())
}
