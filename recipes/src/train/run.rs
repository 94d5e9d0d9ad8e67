//! The loop of a training run: steps, validation, checkpoints, and how it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use burnish_engine::bytes::{peak_bytes, resident_bytes};
use burnish_engine::{LossScale, Numbers, StepItem, Verdict, with_hint};
use burnish_kernels::DeviceMemory;

use super::checkpoint::{RunCheckpoint, TrainerState};
use super::evaluate::evaluate;
use super::events::Events;
use super::learner::{Driver, SharedTrainer};
use super::metrics::{MetricsFile, StepMetrics};
use super::plan::{Plan, Shapes};
use super::pools::Pools;
use super::samples::SAMPLES;
use super::timings::Timings;
use super::validation_lines::{ValidationLine, ValidationsFile};
use super::watch::Watch;
use super::weights::WeightWriter;
use crate::config::TrainConfig;
use crate::data::Batches;
use crate::system::Strain;

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

/// A run in progress.
pub struct TrainingRun {
    /// The effective configuration.
    pub config: TrainConfig,
    /// The remaining steps.
    pub plan: Plan,
    /// The shapes of their micro-batches.
    pub shapes: Shapes,
    /// Held-out batches.
    pub valid: Option<Arc<Batches>>,
    /// The model and its optimizer.
    pub trainer: SharedTrainer,
    /// Writes the trained weights.
    pub weights: WeightWriter,
    /// Progress of the run.
    pub state: TrainerState,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Checkpoints that were verified, by step: whether each is intact.
    pub whole: BTreeMap<usize, bool>,
    /// Memory available to the backend, if the system reports it.
    pub budget: Option<u64>,
    /// Receives the run's events.
    pub events: Arc<Mutex<dyn Events>>,
}

impl TrainingRun {
    /// Runs the remaining steps.
    ///
    /// # Errors
    /// When the device fails, a number is not finite, or a file can't be written; the last checkpoint stays intact.
    pub fn steps(&mut self, driver: &mut Driver<'_>) -> Result<End> {
        if self.has_lost_patience() {
            // The run was resumed after an early stop.
            return Ok(End::EarlyStop);
        }
        let folder = PathBuf::from(&self.config.output_dir);
        let mut file = MetricsFile::open(&folder, self.state.step)?;
        let mut validations = ValidationsFile::open(&folder, self.state.step)?;
        let total = self.plan.total;
        let started = self.state.step;
        if started < total {
            // They are of an earlier result; there may be none.
            std::fs::remove_file(folder.join(SAMPLES)).ok();
        }
        let mut saved = started;
        if self.shapes.count() == 1 && !self.plan.objective.has_rows_beside() {
            self.trainer.get().use_exact_buffers();
        }
        let mut pools = Pools::default();
        let mut watch = Watch::new(Strain::now);
        let mut asked = Instant::now();
        for item in self.plan.steps() {
            let (step, epoch) = (item.step, item.epoch);
            if pools.are_trimmed_for(&item.batches) {
                self.trainer.get().trim();
            }
            let metrics = self.step(driver, item, asked.elapsed())?;
            file.write(&metrics)?;
            self.look_after(&mut pools, driver).map_err(on_device)?;
            if step == started + 1 {
                // Its kernels are compiled, and nothing is queued.
                burnish_backends::publish_kernels();
            }
            if epoch > self.state.epoch {
                driver.end_epoch(self.state.epoch + 1);
            }
            self.state.step = step;
            self.state.epoch = epoch;
            self.state.tokens += metrics.tokens as u64;
            self.last_loss = Some(metrics.loss);
            self.events().step(&metrics, total);
            for warning in watch.after(&metrics) {
                self.events().warning(&warning);
            }

            let is_validated = is_due(self.config.steps_per_eval, step) || step == total;
            let is_best = is_validated && self.validate(step, &mut validations)?;
            let end = if driver.should_stop() {
                Some(End::Interrupted)
            } else if self.has_lost_patience() {
                Some(End::EarlyStop)
            } else {
                None
            };
            if self.is_saved(is_best, end) {
                // Before the checkpoint: its steps must not lose their lines in a power cut.
                file.sync()?;
                validations.sync()?;
                self.save()?;
                saved = step;
            }
            if let Some(end) = end {
                return Ok(end);
            }
            asked = Instant::now();
        }
        // Interrupted before the first step of this process: there is nothing new to save.
        let is_interrupted = driver.should_stop() && saved == self.state.step && self.state.step < total;
        Ok(if is_interrupted { End::Interrupted } else { End::Finished })
    }

    /// Forward, backward, clipping and update. `data` is the time that the batches took.
    fn step(&mut self, driver: &mut Driver<'_>, mut item: StepItem, data: Duration) -> Result<StepMetrics> {
        let started = Instant::now();
        let (step, epoch, tokens) = (item.step, item.epoch, item.tokens());
        item.loss_scale = self.state.loss_scale.as_ref().map_or(1.0, |loss_scale| loss_scale.scale);
        let learning_rate = driver.queue(item).map_err(on_device)?;
        let queued = Instant::now();
        let (numbers, memory, metrics, timings) = {
            let mut trainer = self.trainer.get();
            let numbers = trainer.finish().map_err(on_device)?;
            let milliseconds = |seconds: f64| seconds * 1e3;
            let timings = trainer.times().map(|times| Timings {
                data_ms: milliseconds(data.as_secs_f64()),
                forward_ms: milliseconds(times.forward),
                backward_ms: milliseconds(times.backward),
                optimizer_ms: milliseconds(times.optimizer),
                wait_ms: milliseconds(queued.elapsed().as_secs_f64()),
            });
            (numbers, trainer.memory(), trainer.metrics().to_vec(), timings)
        };
        self.judge(step, numbers)?;
        driver.report(numbers.loss, step, epoch, self.plan.total);
        let seconds = started.elapsed().as_secs_f64();
        Ok(StepMetrics {
            step,
            loss: numbers.loss,
            learning_rate,
            grad_norm: numbers.grad_norm,
            tokens,
            tokens_per_second: tokens as f64 / seconds,
            step_ms: seconds * 1e3,
            live_bytes: memory.map(|memory| memory.in_use),
            pool_bytes: memory.map(|memory| memory.reserved),
            budget_bytes: memory.and_then(|memory| memory.total).or(self.budget),
            resident_bytes: resident_bytes(),
            peak_bytes: peak_bytes(),
            skipped: self.state.skipped,
            timings,
            objective: metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    /// Rehearses the largest micro-batches after the first step, on a device with pools.
    fn look_after(&self, pools: &mut Pools, driver: &Driver<'_>) -> Result<()> {
        let mut trainer = self.trainer.get();
        if trainer.memory().is_none() {
            return Ok(());
        }
        let items = pools.to_rehearse(&self.plan, &self.shapes);
        if !items.is_empty() {
            // Loading the model and a smaller step left parts that the rest of the run does not need.
            trainer.trim();
        }
        for item in items {
            let is_full = |memory: DeviceMemory| memory.total.is_some_and(|total| memory.reserved > total / 10 * 9);
            if driver.should_stop() || trainer.memory().is_some_and(is_full) {
                break;
            }
            trainer.rehearse(&item)?;
        }
        if let Some(memory) = trainer.memory() {
            pools.hold(memory.reserved);
        }
        Ok(())
    }

    /// Skips a step whose gradient overflowed f16: its update changed nothing and does not count.
    ///
    /// # Errors
    /// When the loss or the gradient is not finite, and a lower loss scale can't help.
    fn judge(&mut self, step: usize, numbers: Numbers) -> Result<()> {
        let verdict = Verdict::of(numbers, self.state.loss_scale.as_mut());
        if verdict == Verdict::Taken {
            return Ok(());
        }
        self.trainer.get().take_back();
        if verdict == Verdict::Broken {
            return Err(not_finite(step, numbers, self.state.loss_scale.is_some()));
        }
        self.state.skipped += 1;
        let scale = self.state.loss_scale.as_ref().map_or(1.0, |loss_scale: &LossScale| loss_scale.scale);
        self.events().note(&format!(
            "step {step} was skipped ({} so far): its gradient overflowed f16; the loss scale is now {scale}",
            self.state.skipped
        ));
        Ok(())
    }

    /// Validates, and returns whether this is the lowest loss so far.
    fn validate(&mut self, step: usize, file: &mut ValidationsFile) -> Result<bool> {
        let Some(batches) = self.valid.as_ref().filter(|_| self.config.steps_per_eval > 0) else { return Ok(false) };
        let mut trainer = self.trainer.get();
        let objective = &self.plan.objective;
        let loss_of = |batch: &_| trainer.loss(batch, objective).map_err(on_device);
        let evaluation = evaluate(loss_of, batches, objective, self.config.val_batches, |_, _| {})?;
        drop(trainer);
        file.write(&ValidationLine::of(step, &evaluation))?;
        let is_best = self.state.take_validation(evaluation.loss, step);
        self.events().evaluation(step, &evaluation, is_best);
        Ok(is_best)
    }

    /// Whether early stopping ends the run.
    fn has_lost_patience(&self) -> bool {
        let patience = self.config.early_stopping;
        patience > 0 && self.state.without_improvement >= patience
    }

    /// Whether the last step gets a checkpoint. A run that ends with its best step also saves that one, and an early stop.
    fn is_saved(&self, is_best: bool, end: Option<End>) -> bool {
        let every = self.config.save_every;
        let is_last = self.state.step == self.plan.total || end.is_some();
        let is_result = self.config.ends_with_best() && (is_best || end == Some(End::EarlyStop));
        is_due(every, self.state.step) || (every > 0 && (is_best || is_last)) || end == Some(End::Interrupted) || is_result
    }

    fn save(&mut self) -> Result<()> {
        let run = PathBuf::from(&self.config.output_dir);
        let trainer = self.trainer.get();
        let path = RunCheckpoint::save(&run, &self.state, &self.config.to_kept_toml(), &*trainer.moments(), |folder| {
            self.weights.write(&**trainer, folder)
        })?;
        drop(trainer);
        self.whole.insert(self.state.step, true);
        let whole = &mut self.whole;
        RunCheckpoint::prune(&run, self.config.save_total_limit, self.state.best_step, |step, path| {
            *whole.entry(step).or_insert_with(|| RunCheckpoint::open(path).is_ok())
        })?;
        self.events().checkpoint(&path);
        self.checkpoint = Some(path);
        Ok(())
    }

    /// The observers.
    pub(super) fn events(&self) -> MutexGuard<'_, dyn Events + 'static> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_due(every: usize, step: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The error for a loss or gradient that is not finite.
fn not_finite(step: usize, Numbers { loss, grad_norm }: Numbers, is_half: bool) -> anyhow::Error {
    let what = if loss.is_finite() { "gradient" } else { "loss" };
    let dtype = if is_half { "use dtype bf16 or f32, which have a larger range than f16, " } else { "" };
    with_hint(
        format!(
            "the {what} of step {step} is not finite (loss {loss}, gradient norm {grad_norm}); the step was not applied"
        ),
        format!("{dtype}lower learning_rate, raise warmup, or check the rows of this step; the last checkpoint is intact"),
    )
}

/// Adds advice to an error of the device.
fn on_device(error: anyhow::Error) -> anyhow::Error {
    with_hint(
        error.to_string(),
        "the last checkpoint is intact: --resume auto continues from it; --backend cpu runs everywhere; if memory ran out, \
         use grad_checkpoint, or lower batch_size or max_seq_length",
    )
}
