//! One training run, from configuration to adapter.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use burn_train::logger::InMemoryMetricLogger;
use burn_train::metric::LossMetric;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use burnish_kernels::FusedBackend;
use burnish_lora::{LoraConfig, MergedCheckpoint, attach, check_targets, load_adapter, save_adapter};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{ComputeType, LanguageModel, LoadOptions, ModelConfig, Pretrained};

use super::checkpoint::{Checkpoint, TrainerState, write_folder};
use super::model::TrainedModel;
use super::optimizer::AdamW;
use super::schedule::Schedule;
use super::strategy::{Components, End, Events, Plan, Running, StepStrategy, WeightWriter, lock};
use super::{Training, run_folder};
use crate::backend::{self, BackendJob};
use crate::config::{FineTuneType, TrainConfig};
use crate::data::{self, BadRows, BatchOptions, Batches, Preparation, Sources};
use crate::dtype::{self, DtypeChoice};
use crate::hint::with_hint;
use crate::memory;
use crate::report::{Dashboard, Quiet};
use crate::weights::ModelWeights;

/// A run that is ready to start.
pub struct Prepared {
    /// The effective configuration: neither `backend` nor `dtype` is `auto` any longer.
    pub config: TrainConfig,
    /// What the model computes in.
    pub dtype: DtypeChoice,
    /// The base.
    pub pretrained: Pretrained,
    /// To train on.
    pub train: Arc<Batches>,
    /// To validate on.
    pub valid: Option<Arc<Batches>>,
    /// Where to go on.
    pub resume: Option<Checkpoint>,
    /// Where the run stands.
    pub state: TrainerState,
    /// Lines for the user.
    pub notes: Vec<String>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Where it stood then.
    pub state: TrainerState,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The PEFT folder, or the model's folder when every weight was trained.
    pub output: Option<PathBuf>,
    /// The step that it is of: the last, or the best.
    pub output_step: usize,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
}

impl Prepared {
    /// Chooses backend and dtype, opens model and data and looks for a checkpoint; nothing is on a device yet.
    ///
    /// # Errors
    /// Whatever is wrong with them, before anything is written.
    pub fn new(mut config: TrainConfig) -> Result<Self> {
        let dtype = dtype::of_run(&config)?;
        backend::choose(&config.backend).0.clone_into(&mut config.backend);
        dtype.dtype.name().clone_into(&mut config.dtype);
        let found = run_folder::find(&config)?;
        let mut pretrained = match &config.model_config {
            Some(folder) => Pretrained::without_weights(Path::new(folder))?,
            None => Pretrained::open(&config.model)?,
        };
        check_model(&config, &pretrained, found.checkpoint.is_some())?;
        memory::check(&config.backend, &pretrained.config, dtype.dtype, config.fine_tune_type == FineTuneType::Full)?;
        let state = found.checkpoint.as_ref().map(|checkpoint| checkpoint.state.clone());
        let state = state.unwrap_or_else(|| TrainerState { started: now(), seed: config.seed, ..Default::default() });
        if let Some(template) = &mut pretrained.chat_template {
            template.fix_now(state.started);
        }
        let mut notes = Vec::new();
        let limit = config.max_seq_length.min(pretrained.config.max_position_embeddings);
        if limit < config.max_seq_length {
            notes.push(format!("max_seq_length is {limit}: the model has no more positions"));
        }
        let preparation = Preparation {
            tokenizer: &pretrained.tokenizer,
            template: pretrained.chat_template.as_ref(),
            mask_prompt: config.mask_prompt,
            max_seq_length: limit,
            vocab_size: pretrained.config.vocab_size,
        };
        let bad_rows = if config.skip_bad_rows { BadRows::Skip } else { BadRows::Stop };
        let mut batches = |file: &Path, shuffle_seed: Option<u64>| -> Result<Arc<Batches>> {
            let prepared = data::load(file, &preparation, bad_rows)?;
            notes.extend(prepared.report.lines().into_iter().map(|line| format!("{}: {line}", file.display())));
            let options = BatchOptions {
                batch_size: config.batch_size,
                max_seq_length: limit,
                packing: config.packing,
                shuffle_seed,
                pad_token_id: pretrained.config.pad_token_id.unwrap_or(0),
            };
            Ok(Arc::new(Batches::new(prepared.examples, options)))
        };
        let sources = Sources::locate(&config.data)?;
        let train = sources.train.ok_or_else(|| {
            with_hint(
                format!("{} has nothing to train on", config.data),
                "name the rows train.jsonl, or give the file itself",
            )
        })?;
        let train = batches(&train, config.shuffle.then_some(config.seed))?;
        let valid = sources.valid.map(|file| batches(&file, None)).transpose()?;
        notes.extend(run_folder::prepare(&config, &found)?);
        Ok(Self { config, dtype, pretrained, train, valid, resume: found.checkpoint, state, notes })
    }
}

/// What can be known to be wrong with model, adapter and targets before anything is written.
fn check_model(config: &TrainConfig, pretrained: &Pretrained, resumed: bool) -> Result<()> {
    // The backend decides nothing here.
    type Model = LanguageModel<burn::backend::Flex>;
    let layers = Model::linear_names(&pretrained.config)?;
    if config.model_config.is_none() {
        Model::check_checkpoint(&pretrained.config, &*pretrained.checkpoint)?;
    }
    match &config.adapter {
        _ if resumed || config.fine_tune_type == FineTuneType::Full => {}
        Some(folder) => drop(MergedCheckpoint::open(&*pretrained.checkpoint, Path::new(folder))?),
        None => check_targets(&config.lora(), &layers)?,
    }
    Ok(())
}

/// Seconds since 1970; `SOURCE_DATE_EPOCH` fixes them.
fn now() -> i64 {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs() as i64);
    fixed.unwrap_or_else(clock)
}

/// Trains.
///
/// # Errors
/// What broke the run; the last checkpoint is whole then.
pub fn train(
    prepared: Prepared,
    events: Arc<Mutex<dyn Events>>,
    interrupter: Interrupter,
    dashboard: bool,
) -> Result<Summary> {
    let name = prepared.config.backend.clone();
    backend::run(&name, TrainJob { prepared, events, interrupter, dashboard })
}

struct TrainJob {
    prepared: Prepared,
    events: Arc<Mutex<dyn Events>>,
    interrupter: Interrupter,
    dashboard: bool,
}

impl BackendJob for TrainJob {
    type Output = Summary;

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Summary> {
        let Self { prepared, events, interrupter, dashboard } = self;
        let Prepared { config, dtype, pretrained, train, valid, resume, mut state, .. } = prepared;
        let model = build_model::<Training<B>>(&config, dtype.dtype, &pretrained, resume.as_ref(), &device)?;
        let done = resume.as_ref().map_or(0, |checkpoint| checkpoint.state.step);
        let optimizer = AdamW::<Training<B>>::new(&config);
        if let Some(checkpoint) = &resume {
            checkpoint.restore_optimizer(&optimizer, &model.parameters(), &device)?;
        }
        let plan = Plan::new(&config, train, done);
        state.seed = config.seed;
        let is_half = dtype.dtype == ComputeType::F16;
        state.loss_scale = is_half.then(|| state.loss_scale.take().unwrap_or_default());
        let progress = Arc::new(Mutex::new(Running {
            state,
            end: End::Finished,
            error: None,
            last_loss: None,
            best_taken: None,
            checkpoint: resume.as_ref().map(|checkpoint| checkpoint.path.clone()),
        }));
        let lora = adapter_config(&config, resume.as_ref())?;
        let strategy = StepStrategy {
            config: config.clone(),
            valid,
            optimizer: optimizer.clone(),
            save_weights: weight_writer(&config, &lora, &pretrained),
            progress: progress.clone(),
            events,
        };
        let learner = Learner::new(TrainedModel { model }, optimizer, Schedule::new(&config, plan.total, done));
        let training =
            SupervisedTraining::<Components<Training<B>>>::new(&config.output_dir, Arc::new(plan.clone()), Arc::new(plan))
                .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
                .with_application_logger(None)
                .with_metric_logger(InMemoryMetricLogger::default())
                .with_interrupter(interrupter.clone())
                .metric_train_numeric(LossMetric::<burn::backend::Flex>::new());
        let trained = if dashboard {
            training.renderer(Dashboard::new(interrupter)).launch(learner)
        } else {
            training.renderer(Quiet).launch(learner)
        };
        let mut running = lock(&progress);
        if let Some(error) = running.error.take() {
            return Err(error);
        }
        let output = match running.end {
            End::Interrupted => None,
            End::Finished | End::EarlyStop => {
                let best = best_checkpoint(&config, &running.state);
                running.best_taken = best.as_ref().map(|best| best.state.step);
                Some(write_result(&config, &lora, &pretrained, &trained.model.model, best.as_ref())?)
            }
        };
        Ok(Summary {
            end: running.end,
            state: running.state.clone(),
            last_loss: running.last_loss,
            output,
            output_step: running.best_taken.unwrap_or(running.state.step),
            checkpoint: running.checkpoint.clone(),
        })
    }
}

fn build_model<B: FusedBackend>(
    config: &TrainConfig,
    dtype: ComputeType,
    pretrained: &Pretrained,
    resume: Option<&Checkpoint>,
    device: &B::Device,
) -> Result<LanguageModel<B>> {
    let shape: &ModelConfig = &pretrained.config;
    if config.fine_tune_type == FineTuneType::Full {
        let options = LoadOptions::trainable();
        return Ok(match resume {
            Some(checkpoint) => LanguageModel::load(shape, &SafetensorsFolder::open(&checkpoint.path)?, device, options)?,
            None if config.model_config.is_some() => LanguageModel::random(shape, config.seed, device)?,
            None => LanguageModel::load(shape, &*pretrained.checkpoint, device, options)?,
        });
    }
    let mut model = LanguageModel::load(shape, &*pretrained.checkpoint, device, LoadOptions::frozen(dtype))?;
    let folder = resume.map(|checkpoint| checkpoint.path.clone()).or_else(|| config.adapter.as_ref().map(PathBuf::from));
    if let Some(folder) = folder {
        // What its configuration says of dropout is the former run's.
        load_adapter(&mut model, &folder, Some(config.dropout), device)?;
    } else if attach(&mut model, &config.lora(), config.seed, device)? == 0 {
        bail!("no layer got an adapter");
    }
    Ok(model)
}

fn copy_adapter(from: &Path, to: &Path) -> Result<()> {
    for name in burnish_lora::ADAPTER_FILES {
        let file = from.join(name);
        std::fs::copy(&file, to.join(name)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// How the trained tensors of this run are written.
fn weight_writer<B: FusedBackend>(config: &TrainConfig, lora: &LoraConfig, pretrained: &Pretrained) -> WeightWriter<B> {
    match config.fine_tune_type {
        FineTuneType::Lora => {
            let (lora, source) = (lora.clone(), pretrained.source.clone());
            Box::new(move |model, folder| save_adapter(model, &lora, &source, folder).map_err(|error| anyhow!(error)))
        }
        FineTuneType::Full => Box::new(|model, folder| {
            burnish_export::write_safetensors(&ModelWeights::of(model), folder, burnish_export::FloatType::F32)
                .map_err(|error| anyhow!(error))
        }),
    }
}

/// The adapter's configuration: that of the checkpoint or the folder it comes from, where it comes from one.
///
/// # Errors
/// When that folder's configuration can't be read.
fn adapter_config(config: &TrainConfig, resume: Option<&Checkpoint>) -> Result<LoraConfig> {
    if config.fine_tune_type == FineTuneType::Full {
        return Ok(config.lora());
    }
    let folder = resume.map(|checkpoint| checkpoint.path.as_path()).or(config.adapter.as_deref().map(Path::new));
    let found = folder.map(burnish_lora::read_config).transpose()?;
    Ok(found.map_or_else(|| config.lora(), |found| LoraConfig { dropout: config.dropout, ..found }))
}

/// The checkpoint of the lowest validation loss, where the run shall end with it and the last step is not it.
fn best_checkpoint(config: &TrainConfig, state: &TrainerState) -> Option<Checkpoint> {
    let step = state.best_step.filter(|step| config.ends_with_best() && *step != state.step)?;
    Checkpoint::open(&Checkpoint::folder(Path::new(&config.output_dir), step)).ok()
}

/// Writes what the run is for, from the model or from a checkpoint.
fn write_result<B: FusedBackend>(
    config: &TrainConfig,
    lora: &LoraConfig,
    pretrained: &Pretrained,
    model: &LanguageModel<B>,
    best: Option<&Checkpoint>,
) -> Result<PathBuf> {
    let run = PathBuf::from(&config.output_dir);
    match config.fine_tune_type {
        FineTuneType::Lora => {
            let target = run.join("adapter");
            write_folder(&target, |folder| match best {
                Some(best) => copy_adapter(&best.path, folder),
                None => Ok(save_adapter(model, lora, &pretrained.source, folder)?),
            })?;
            Ok(target)
        }
        FineTuneType::Full => {
            let target = run.join("model");
            let saved = best.map(|best| SafetensorsFolder::open(&best.path)).transpose()?;
            let trained = ModelWeights::of(model);
            let weights: &dyn burnish_models::Checkpoint = match &saved {
                Some(saved) => saved,
                None => &trained,
            };
            burnish_export::export_hugging_face(
                pretrained,
                weights,
                &target,
                &burnish_export::HuggingFaceOptions { overwrite: true, ..Default::default() },
            )
            .with_context(|| target.display().to_string())?;
            Ok(target)
        }
    }
}
