//! The loop of a training run: steps, validation, checkpoints, and how it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use burnish_engine::bytes::peak_bytes;
use burnish_engine::{LossScale, Numbers, StepItem, Verdict, with_hint};

use super::checkpoint::{RunCheckpoint, TrainerState};
use super::evaluate::evaluate;
use super::events::Events;
use super::learner::{Driver, SharedTrainer};
use super::metrics::{MetricsFile, StepMetrics};
use super::plan::Plan;
use super::weights::WeightWriter;
use crate::config::TrainConfig;
use crate::data::Batches;

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

/// A run that goes on.
pub struct TrainingRun {
    /// The effective configuration.
    pub config: TrainConfig,
    /// The steps that are left.
    pub plan: Plan,
    /// Held-out batches.
    pub valid: Option<Arc<Batches>>,
    /// The model and its optimizer.
    pub trainer: SharedTrainer,
    /// Writes what trains.
    pub weights: WeightWriter,
    /// Where the run stands.
    pub state: TrainerState,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Which checkpoints of the folder are known to be whole, or damaged.
    pub whole: BTreeMap<usize, bool>,
    /// Hears of it all.
    pub events: Arc<Mutex<dyn Events>>,
}

impl TrainingRun {
    /// Takes the steps that are left.
    ///
    /// # Errors
    /// What broke the run; the last checkpoint is whole then.
    pub fn steps(&mut self, driver: &mut Driver<'_>) -> Result<End> {
        if self.has_lost_patience() {
            // Resumed after it had ended.
            return Ok(End::EarlyStop);
        }
        let mut file = MetricsFile::open(Path::new(&self.config.output_dir), self.state.step)?;
        let total = self.plan.total;
        let mut saved = self.state.step;
        for item in self.plan.steps() {
            let (step, epoch) = (item.step, item.epoch);
            let metrics = self.step(driver, item)?;
            file.write(&metrics)?;
            if epoch > self.state.epoch {
                driver.end_epoch(self.state.epoch + 1);
            }
            self.state.step = step;
            self.state.epoch = epoch;
            self.state.tokens += metrics.tokens as u64;
            self.last_loss = Some(metrics.loss);
            self.events().step(&metrics, total);

            let is_best = (is_due(self.config.steps_per_eval, step) || step == total) && self.validate(step)?;
            let end = if driver.should_stop() {
                Some(End::Interrupted)
            } else if self.has_lost_patience() {
                Some(End::EarlyStop)
            } else {
                None
            };
            if self.is_saved(is_best, end) {
                // No checkpoint has steps whose lines a power cut could take.
                file.sync()?;
                self.save()?;
                saved = step;
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
        // Interrupted before the first step of this process: there is nothing new to save.
        let is_interrupted = driver.should_stop() && saved == self.state.step && self.state.step < total;
        Ok(if is_interrupted { End::Interrupted } else { End::Finished })
    }

    /// Forward, backward, clipping and update.
    fn step(&mut self, driver: &mut Driver<'_>, mut item: StepItem) -> Result<StepMetrics> {
        let started = Instant::now();
        let (step, epoch, tokens) = (item.step, item.epoch, item.tokens());
        item.loss_scale = self.state.loss_scale.as_ref().map_or(1.0, |loss_scale| loss_scale.scale);
        let learning_rate = driver.queue(item).map_err(on_device)?;
        let (numbers, memory, metrics) = {
            let mut trainer = self.trainer.get();
            (trainer.finish().map_err(on_device)?, trainer.memory(), trainer.metrics().to_vec())
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
            peak_bytes: peak_bytes(),
            skipped: self.state.skipped,
            objective: metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    /// Takes a step back that changed nothing.
    ///
    /// # Errors
    /// When its loss or its gradient is not finite, and no loss scale helps.
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
            "step {step} is skipped, {} so far: its gradient overflowed f16; the loss scale is {scale} now",
            self.state.skipped
        ));
        Ok(())
    }

    /// Validates; whether no step before was better.
    fn validate(&mut self, step: usize) -> Result<bool> {
        let Some(batches) = self.valid.as_ref().filter(|_| self.config.steps_per_eval > 0) else { return Ok(false) };
        let mut trainer = self.trainer.get();
        let objective = &self.plan.objective;
        let loss_of = |batch: &_| trainer.loss(batch, objective).map_err(on_device);
        let evaluation = evaluate(loss_of, batches, objective, self.config.val_batches, |_, _| {})?;
        drop(trainer);
        let is_best = self.state.take_validation(evaluation.loss, step);
        self.events().evaluation(step, &evaluation, is_best);
        Ok(is_best)
    }

    /// Whether the validation loss did not fall often enough for the run to end.
    fn has_lost_patience(&self) -> bool {
        let patience = self.config.early_stopping;
        patience > 0 && self.state.without_improvement >= patience
    }

    /// Whether the step that was just taken gets a checkpoint. What the run shall end with is on the disk, and so is its end.
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

/// What ends a run whose numbers are not finite.
fn not_finite(step: usize, Numbers { loss, grad_norm }: Numbers, is_half: bool) -> anyhow::Error {
    let what = if loss.is_finite() { "gradient" } else { "loss" };
    let dtype = if is_half { "take dtype bf16 or f32, which reach further than f16, " } else { "" };
    with_hint(
        format!(
            "the {what} of step {step} is not a number (loss {loss}, gradient norm {grad_norm}); the step was not taken"
        ),
        format!("{dtype}lower learning_rate, raise warmup, or look at the rows of this step; the last checkpoint is whole"),
    )
}

/// What broke on the device, and what to do.
fn on_device(error: anyhow::Error) -> anyhow::Error {
    with_hint(
        error.to_string(),
        "the last checkpoint is whole: --resume auto continues; --backend cpu runs everywhere; if memory ran out, lower \
         batch_size or max_seq_length",
    )
}
