//! Runs a prepared run on its device, and writes the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn_train::Interrupter;
use burnish_engine::guard::guarded;
use burnish_engine::{AdamWConfig, Adapter, Device, MomentType, TrainedPart, Trainer, Weights};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{FloatType, LoadOptions, Pretrained};

use super::awake::Awake;
use super::card::card;
use super::checkpoint::{RunCheckpoint, TrainerState};
use super::events::Events;
use super::learner::{Driver, SharedTrainer, launch};
use super::plan::{Plan, Shapes};
use super::prepare::PreparedRun;
use super::run::{End, TrainingRun};
use super::samples::{self, SAMPLES};
use super::schedule::Schedule;
use super::weights::WeightWriter;
use crate::config::{FineTuneType, OptimizerKind, TrainConfig};
use crate::data::Batches;
use crate::report::Quiet;
use crate::tracker;
use crate::tune::{self, RunProducts};

/// The result of a run.
#[derive(Debug)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Progress at the end.
    pub state: TrainerState,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The PEFT folder, or the model's folder after full fine-tuning.
    pub output: Option<PathBuf>,
    /// Step of `output`: the last, or the best.
    pub output_step: usize,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
}

/// Trains, and writes the result.
///
/// # Errors
/// When the device fails, a number is not finite, or a file can't be written; the last checkpoint stays intact.
pub fn train(prepared: PreparedRun, events: Arc<Mutex<dyn Events>>, interrupter: Interrupter) -> Result<Summary> {
    let backend = prepared.config.backend.clone();
    let _awake = Awake::new(prepared.config.prevent_sleep);
    let events = tracker::open(&prepared.config, prepared.state.step, events)?;
    let received = events.clone();
    let summary = burnish_backends::enter(&backend, |device| on_device(device, prepared, received, interrupter));
    let finished = summary.as_ref().is_ok_and(|summary| summary.end != End::Interrupted);
    events.lock().unwrap_or_else(PoisonError::into_inner).end(finished);
    summary
}

fn on_device(
    device: &dyn Device,
    prepared: PreparedRun,
    events: Arc<Mutex<dyn Events>>,
    interrupter: Interrupter,
) -> Result<Summary> {
    let PreparedRun { config, dtype, storage, pretrained, train, valid, shapes, resume, mut state, lock, .. } = prepared;
    let (asked, rows, told) = (config.clone(), valid.clone(), events.clone());
    let _held_until_the_end = lock;
    let mut trainer = build(device, &config, storage.options, &pretrained, resume.as_ref())?;
    let done = resume.as_ref().map_or(0, |checkpoint| checkpoint.state.step);
    let plan = Plan::new(&config, train, done);
    let note = if resume.is_some() {
        tune::for_resumed(device, &config.backend, state.products.as_ref())
    } else {
        let (products, note) = tune::for_run(device, &mut *trainer, of_products(&config, &plan, &shapes))?;
        state.products = products;
        note
    };
    if let Some(note) = note {
        events.lock().unwrap_or_else(PoisonError::into_inner).note(&note);
    }
    let trainer = SharedTrainer::new(trainer);
    state.seed = config.seed;
    state.loss_scale = (dtype.dtype == FloatType::F16).then(|| state.loss_scale.take().unwrap_or_default());
    let product_library = device.product_library();
    if done > 0 && product_library != state.product_library {
        let name = |library: &Option<String>| library.clone().unwrap_or_else(|| "the kernels of this program".to_owned());
        events.lock().unwrap_or_else(PoisonError::into_inner).note(&format!(
            "the checkpoint's matrix products were computed by {}, and now are by {}: losses can differ in their last digits from those \
             of a run that was not stopped",
            name(&state.product_library),
            name(&product_library)
        ));
    }
    state.product_library = product_library;
    let budget = burnish_backends::capacity::available(&config.backend);
    let (schedule, epochs) = (Schedule::new(&config, plan.total, done), config.epochs);
    let mut run = TrainingRun {
        weights: WeightWriter::new(&config, &pretrained.source, resume.as_ref())?,
        config,
        plan: plan.clone(),
        shapes,
        valid,
        trainer: trainer.clone(),
        state,
        last_loss: None,
        checkpoint: resume.map(|checkpoint| checkpoint.path),
        whole: BTreeMap::new(),
        budget,
        events,
    };
    let (send, receive) = mpsc::channel();
    let steps = move |driver: &mut Driver<'_>| {
        let end = run.steps(driver);
        // The receiver outlives this call.
        send.send((run, end)).ok();
    };
    launch(trainer, plan, schedule, epochs, interrupter, Quiet, steps);
    let (run, end) = receive.recv().context("the training loop did not run")?;
    let summary = finish(run, end?, &pretrained)?;
    if let Some(line) = samples_of(device, &asked, &pretrained, storage.options, rows.as_deref(), &summary) {
        told.lock().unwrap_or_else(PoisonError::into_inner).note(&line);
    }
    Ok(summary)
}

/// What decides how a run computes its products.
fn of_products<'a>(config: &'a TrainConfig, plan: &Plan, shapes: &Shapes) -> RunProducts<'a> {
    let largest = shapes.by_size().into_iter().next();
    let largest = largest.map(|(_, epoch, index)| (plan.rehearsal(epoch, index), plan.accumulation));
    RunProducts { backend: &config.backend, tune: config.tune, steps: plan.total, largest }
}

/// Records samples of the result, and returns what there is to say about them. They are not worth the failure of a finished run.
fn samples_of(
    device: &dyn Device,
    config: &TrainConfig,
    pretrained: &Pretrained,
    options: LoadOptions,
    valid: Option<&Batches>,
    summary: &Summary,
) -> Option<String> {
    let result = summary.output.as_deref().filter(|_| config.samples > 0)?;
    let Some(valid) = valid else { return Some("no samples: there are no validation rows".to_owned()) };
    if config.model_config.is_some() {
        return Some("no samples: a model that is trained from scratch has no answers before".to_owned());
    }
    match guarded(|| samples::record(device, config, pretrained, options, valid, result)) {
        Ok(0) => Some("no samples: no validation row has a prompt with a complete answer".to_owned()),
        Ok(count) => Some(format!("wrote {count} answers before and after training to {SAMPLES}")),
        Err(error) => Some(format!("samples could not be recorded: {error:#}")),
    }
}

fn finish(run: TrainingRun, end: End, pretrained: &Pretrained) -> Result<Summary> {
    let (mut output, mut output_step) = (None, run.state.step);
    if end != End::Interrupted {
        let best = best_checkpoint(&run);
        output_step = best.as_ref().map_or(run.state.step, |best| best.state.step);
        let folder = Path::new(&run.config.output_dir);
        let card = card(&run, pretrained);
        output = Some(run.weights.write_result(folder, pretrained, &**run.trainer.get(), best.as_ref(), card)?);
    }
    let TrainingRun { state, last_loss, checkpoint, .. } = run;
    Ok(Summary { end, state, last_loss, output, output_step, checkpoint })
}

/// Loads the model, its trained part and the optimizer onto the device.
fn build(
    device: &dyn Device,
    config: &TrainConfig,
    options: LoadOptions,
    pretrained: &Pretrained,
    resume: Option<&RunCheckpoint>,
) -> Result<Box<dyn Trainer>> {
    let saved = match (config.fine_tune_type, resume) {
        (FineTuneType::Full, Some(checkpoint)) => Some(SafetensorsFolder::open(&checkpoint.path)?),
        _ => None,
    };
    let lora = config.lora();
    let part = match config.fine_tune_type {
        FineTuneType::Full => TrainedPart::All(match &saved {
            Some(saved) => Weights::Of(saved),
            None if config.model_config.is_some() => Weights::Random { seed: config.seed },
            None => Weights::Of(&*pretrained.checkpoint),
        }),
        FineTuneType::Lora => TrainedPart::Adapters {
            base: &*pretrained.checkpoint,
            options,
            // Also when resumed: the reference stays the adapter that the run started from.
            reference: config.reference(),
            adapter: match (resume, &config.adapter) {
                (Some(checkpoint), _) => Adapter::Checkpoint { path: &checkpoint.path, config: &lora },
                (None, Some(path)) => Adapter::Folder { path: Path::new(path), dropout: config.dropout },
                (None, None) => Adapter::Fresh { config: &lora, seed: config.seed },
            },
        },
    };
    let mut trainer = device.train(&pretrained.config, part, optimizer(config))?;
    if let Some(checkpoint) = resume {
        checkpoint.restore_moments(&mut *trainer)?;
    }
    Ok(trainer)
}

fn optimizer(config: &TrainConfig) -> AdamWConfig {
    AdamWConfig {
        beta1: config.beta1,
        beta2: config.beta2,
        epsilon: config.epsilon,
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
        moments: match config.optimizer {
            OptimizerKind::Adamw => MomentType::F32,
            OptimizerKind::Adamw8bit => MomentType::EightBit,
        },
        lora_plus_ratio: config.lora_plus_ratio,
    }
}

/// The checkpoint of the lowest validation loss, if the run ends with that one and it isn't the last step.
fn best_checkpoint(run: &TrainingRun) -> Option<RunCheckpoint> {
    let step = run.state.best_step.filter(|step| run.config.ends_with_best() && *step != run.state.step)?;
    match RunCheckpoint::open(&RunCheckpoint::folder(Path::new(&run.config.output_dir), step)) {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            run.events().note(&format!(
                "the checkpoint of the best step ({step}) can't be read, so the result is the last step: {error:#}"
            ));
            None
        }
    }
}
