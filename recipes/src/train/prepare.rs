//! From a configuration to a run that is ready to start.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use burn::backend::Flex;
use burnish_backends::dtype::{self, DtypeChoice};
use burnish_engine::with_hint;
use burnish_export::target::{check_folder, inputs_of};
use burnish_lora::HostAdapter;
use burnish_models::{FloatType, LanguageModel, Pretrained, Quantization};
use serde_json::Value;

use super::checkpoint::{RunCheckpoint, TrainerState};
use super::facts::RunFacts;
use super::fingerprint::Fingerprint;
use super::lock::RunLock;
use super::plan::{Plan, Shapes};
use super::rows::{RowAccess, Rows, RunRows};
use super::run_folder;
use super::validation::check_validation;
use crate::config::{FineTuneType, QuantizationKind, TrainConfig};
use crate::data::{Batches, Shape};
use crate::plan::{Budget, MemoryPlan, Planned, process_so_far};
use crate::recipe;
use crate::storage::{StorageChoice, requested};

/// A run that is ready to start.
pub struct PreparedRun {
    /// The effective configuration: neither `backend` nor `dtype` is `auto` any longer.
    pub config: TrainConfig,
    /// The compute dtype.
    pub dtype: DtypeChoice,
    /// How its weights are stored.
    pub storage: StorageChoice,
    /// The base model.
    pub pretrained: Pretrained,
    /// Training batches.
    pub train: Arc<Batches>,
    /// Validation batches.
    pub valid: Option<Arc<Batches>>,
    /// The shapes of its micro-batches.
    pub shapes: Shapes,
    /// What its largest one takes of memory.
    pub memory: MemoryPlan,
    /// The checkpoint to resume from.
    pub resume: Option<RunCheckpoint>,
    /// Progress of the run.
    pub state: TrainerState,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// What makes the run worse than it could be.
    pub warnings: Vec<String>,
    /// Keeps other runs out of the folder.
    pub lock: RunLock,
}

impl PreparedRun {
    /// Chooses backend and dtype, opens model and data and looks for a checkpoint; nothing is on a device yet.
    ///
    /// # Errors
    /// When any of these is missing or wrong; nothing has been written then.
    pub fn new(config: TrainConfig) -> Result<Self> {
        Self::with(config, &RowAccess::default())
    }

    /// As [`PreparedRun::new`], with kept rows and a report on their preparation.
    ///
    /// # Errors
    /// As [`PreparedRun::new`].
    pub fn with(mut config: TrainConfig, access: &RowAccess<'_>) -> Result<Self> {
        let dtype = choose_dtype(&config)?;
        burnish_backends::choose(&config.backend)?.0.clone_into(&mut config.backend);
        let mut padded = None;
        if config.padding_free && !burnish_backends::attends_by_segment(&config.backend) {
            config.padding_free = false;
            padded = Some(format!(
                "padding_free is off: attention on `{}` would compute each row against the rows before it",
                config.backend
            ));
        }
        dtype.dtype.name().clone_into(&mut config.dtype);
        recipe::check(&config)?;
        let found = run_folder::find(&config)?;
        let mut pretrained = match &config.model_config {
            Some(folder) => Pretrained::without_weights(Path::new(folder))?,
            None => Pretrained::open(&config.model)?,
        };
        check_model(&config, &pretrained, found.checkpoint.is_some())?;
        let requested = requested(&config, dtype.dtype);
        let storage = StorageChoice::new(&config.backend, &pretrained, requested, config.optimizer)?;
        let state = found.checkpoint.as_ref().map(|checkpoint| checkpoint.state.clone());
        let mut state = state.unwrap_or_else(|| TrainerState { started: now(), seed: config.seed, ..Default::default() });
        if let Some(template) = &mut pretrained.chat_template {
            template.fix_now(state.started);
        }
        let mut notes = ignored_dropouts(&pretrained.config_json);
        notes.extend(padded);
        notes.extend(storage.notes.iter().cloned());
        let limit = config.max_seq_length.min(pretrained.config.max_position_embeddings);
        if limit < config.max_seq_length {
            notes.push(format!("max_seq_length is lowered to {limit}, the model's max_position_embeddings"));
        }
        let sources = RunRows { config: &config, pretrained: &pretrained, limit, now: state.started, access };
        let Rows { train, valid, notes: of_rows, warnings, facts } = sources.prepare()?;
        notes.extend(of_rows);
        notes.extend(recipe::note(&config, train.examples()));
        check_validation(&config, valid.is_some())?;
        if config.fine_tune_type == FineTuneType::Full {
            // Fail now rather than after the training.
            let result = Path::new(&config.output_dir).join("model");
            check_folder(&result, true, &inputs_of(&pretrained, &*pretrained.checkpoint))?;
        }
        let now = Fingerprint::of(&train, valid.as_deref(), &pretrained, config.reference())?;
        let mut changed = found.validation_keys.clone();
        if let Some(then) = &state.fingerprint {
            notes.extend(check_inputs(&config, &now, then)?);
            changed.extend(now.validation_changes(then).into_iter().map(str::to_owned));
        }
        notes.extend(forget_best(&mut state, &changed));
        state.fingerprint = Some(now);
        storage.storage.check_blocks(&*pretrained.checkpoint)?;
        let resume = found.checkpoint.clone();
        let plan = Plan::new(&config, train.clone(), resume.as_ref().map_or(0, |_| state.step));
        notes.extend(plan.note(&config));
        let shapes = plan.shapes();
        let memory = check_memory(&config, &pretrained, &storage, &shapes, plan.without_gradients(&config))?;
        notes.extend(resume.as_ref().and_then(|_| no_step_left(&config, &train, state.step)));
        let (lines, lock) = run_folder::prepare(&config, found, &mut state)?;
        notes.extend(lines);
        RunFacts::of(&pretrained, &storage, &plan, memory.total, facts).write(Path::new(&config.output_dir))?;
        Ok(Self { config, dtype, storage, pretrained, train, valid, shapes, memory, resume, state, notes, warnings, lock })
    }
}

/// A note for each dropout of the base model: transformers applies it while training.
fn ignored_dropouts(config: &Value) -> Vec<String> {
    let line = |(key, value): (&str, f64)| {
        format!("`{key}` in the model's config.json is {value}, but is not applied: only `dropout`, on adapters, is")
    };
    burnish_models::config::ignored_dropouts(config).into_iter().map(line).collect()
}

/// Chooses the compute dtype. Full fine-tuning is always in f32.
fn choose_dtype(config: &TrainConfig) -> Result<DtypeChoice> {
    match (config.fine_tune_type, config.dtype.as_str()) {
        (FineTuneType::Full, "auto") => Ok(DtypeChoice { dtype: FloatType::F32, why: "auto: full fine-tuning is in f32" }),
        (FineTuneType::Full, name @ ("f16" | "bf16")) => Err(with_hint(
            format!("`dtype` is {name}, but `fine_tune_type = \"full\"` trains in f32 only"),
            "remove dtype, or set fine_tune_type = \"lora\", which keeps the base model in f16 or bf16",
        )),
        _ => dtype::choose(&config.backend, &config.dtype),
    }
}

/// Checks model, adapter and target modules before anything is written.
fn check_model(config: &TrainConfig, pretrained: &Pretrained, resumed: bool) -> Result<()> {
    // Only names and shapes are checked, so any backend will do.
    type Model = LanguageModel<Flex>;
    if config.model_config.is_none() {
        Model::check_checkpoint(&pretrained.config, &*pretrained.checkpoint)?;
    }
    match &config.adapter {
        _ if resumed || config.fine_tune_type == FineTuneType::Full => {}
        Some(folder) => drop(HostAdapter::of(pretrained, Path::new(folder))?),
        None => burnish_lora::check_model(&config.lora(), &pretrained.config)?,
    }
    Ok(())
}

/// Plans the memory of the largest micro-batch.
///
/// # Errors
/// When it exceeds what the backend may use, unless that is allowed.
fn check_memory(
    config: &TrainConfig,
    pretrained: &Pretrained,
    storage: &StorageChoice,
    shapes: &Shapes,
    without_gradients: Option<usize>,
) -> Result<MemoryPlan> {
    let stored = if storage.options.quantization == Quantization::None {
        TrainConfig { quantization: QuantizationKind::None, ..config.clone() }
    } else {
        config.clone()
    };
    let backend = burnish_backends::choose(&config.backend)?.0;
    let planned = Planned {
        config: &stored,
        model: &pretrained.config,
        checkpoint: &*pretrained.checkpoint,
        backend,
        dtype: storage.options.dtype,
        tokens: shapes.largest().map(Shape::size),
        without_gradients,
        process: process_so_far(),
    };
    planned.plan(Budget::of_this_machine(backend))?.allowed(config.allow_over_budget)
}

/// Compares the inputs of a resumed run with those of its checkpoint.
fn check_inputs(config: &TrainConfig, now: &Fingerprint, then: &Fingerprint) -> Result<Option<String>> {
    let changed = now.changes(then).join(" and ");
    if changed.is_empty() {
        return Ok(None);
    }
    if config.allow_changed_inputs {
        return Ok(Some(format!("{changed} changed since the checkpoint: the run will differ from an uninterrupted one")));
    }
    Err(with_hint(
        format!("{changed} changed since the checkpoint: the resumed run would be a different one"),
        "--allow-changed-inputs resumes anyway; another --output-dir starts a new run",
    ))
}

/// Discards the best step if validation losses before and after the resume can't be compared.
fn forget_best(state: &mut TrainerState, changed: &[String]) -> Option<String> {
    if changed.is_empty() {
        return None;
    }
    let best = state.best_step.map_or_else(String::new, |step| {
        format!("; the best step so far, {step}, is discarded, because its validation loss can't be compared")
    });
    state.forget_best();
    Some(format!("{} changed since the checkpoint{best}", changed.join(" and ")))
}

/// Tells that a resumed run has taken all of its steps.
fn no_step_left(config: &TrainConfig, train: &Arc<Batches>, step: usize) -> Option<String> {
    let total = Plan::new(config, train.clone(), step).total;
    (step >= total).then(|| format!("no step is left: the checkpoint is of step {step}, and the run has {total} steps"))
}

/// Seconds since 1970, or `SOURCE_DATE_EPOCH` if it is set.
fn now() -> i64 {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs() as i64);
    fixed.unwrap_or_else(clock)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burnish_kernels::packed::Affine;
    use burnish_models::Checkpoint;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::config::QuantizationKind;
    use crate::hint::hint;

    #[test]
    fn full_fine_tuning_is_in_f32() {
        let run = |dtype: &str| {
            choose_dtype(&TrainConfig {
                fine_tune_type: FineTuneType::Full,
                dtype: dtype.to_owned(),
                ..TrainConfig::default()
            })
        };
        assert_eq!((run("auto").unwrap().dtype, run("f32").unwrap().dtype), (FloatType::F32, FloatType::F32));
        let error = run("bf16").unwrap_err();
        assert!(error.to_string().contains("`dtype` is bf16") && hint(&error).is_some(), "{error}");
    }

    /// The quickstart's model in few bits, as MLX stores it, with other scales for one matrix.
    fn mlx_model(folder: &Path, scale: impl Fn(f32) -> f32) -> PathBuf {
        const CHANGED: &str = "model.layers.2.mlp.up_proj";
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart/model");
        let target = folder.join("model");
        std::fs::create_dir_all(&target).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(name), target.join(name)).unwrap();
        }
        let text = std::fs::read_to_string(from.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["quantization"] = serde_json::json!({ "group_size": 64, "bits": 4 });
        std::fs::write(target.join("config.json"), config.to_string()).unwrap();
        let base = Pretrained::open(&from).unwrap();
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let floats = |values: Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        for name in base.checkpoint.names() {
            let (shape, values) = (base.checkpoint.shape(&name).unwrap(), base.checkpoint.read_f32(&name).unwrap());
            let Some(layer) = name.strip_suffix(".weight").filter(|name| name.ends_with("_proj")) else {
                tensors.push((name, Dtype::F32, shape, floats(values)));
                continue;
            };
            let packed = Affine::quantize(&name, &values, [shape[0], shape[1]], 4, 64).unwrap();
            let words = packed.words().iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut scales = packed.scales().to_f32();
            if layer == CHANGED {
                for value in &mut scales {
                    *value = scale(*value);
                }
            }
            let groups = vec![shape[0], shape[1] / 64];
            tensors.push((format!("{layer}.scales"), Dtype::F32, groups.clone(), floats(scales)));
            tensors.push((format!("{layer}.biases"), Dtype::F32, groups, floats(packed.biases().to_f32())));
            tensors.push((name, Dtype::U32, vec![shape[0], shape[1] / 8], words));
        }
        let views =
            tensors.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        safetensors::serialize_to_file(views, None, &target.join("model.safetensors")).unwrap();
        target
    }

    #[test]
    fn packed_bases_are_taken_as_they_are_or_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("train.jsonl"), "{\"text\": \"one two three\"}\n").unwrap();
        let run = folder.path().join("run");
        let prepare = |model: &Path, change: &dyn Fn(&mut TrainConfig)| {
            let mut config = TrainConfig {
                model: model.display().to_string(),
                data: folder.path().display().to_string(),
                output_dir: run.display().to_string(),
                backend: "cpu".to_owned(),
                overwrite: true,
                ..TrainConfig::default()
            };
            change(&mut config);
            PreparedRun::new(config)
        };
        let model = mlx_model(folder.path(), |scale| scale);
        let found = |change: &dyn Fn(&mut TrainConfig)| {
            let prepared = prepare(&model, change).unwrap();
            let kinds = prepared.storage.storage.kinds.iter().map(|(kind, stored)| (kind.clone(), stored.tensors));
            (kinds.collect::<Vec<_>>(), prepared.notes)
        };
        let kinds = |linear: &str, matrices: usize, others: usize| {
            let mut kinds = vec![("f32".to_owned(), others), (linear.to_owned(), matrices)];
            kinds.retain(|(_, tensors)| *tensors > 0);
            kinds
        };
        // Four blocks have seven matrices and two norms each.
        assert_eq!(found(&|_| {}).0, kinds("int4", 28, 10));
        assert_eq!(
            found(&|config| config.quantize_embedding = true).0,
            [kinds("int4", 28, 9), kinds("int8", 1, 0)].concat()
        );
        assert_eq!(found(&|config| config.quantization = QuantizationKind::None).0, kinds("f32", 0, 38));
        let (same, notes) = found(&|config| config.quantization = QuantizationKind::Nf4);
        assert_eq!(same, kinds("int4", 28, 10));
        assert!(notes.iter().any(|note| note.starts_with("the file has weights in int4, which stay so")), "{notes:?}");
        assert_eq!(found(&|config| config.fine_tune_type = FineTuneType::Full).0, kinds("f32", 0, 38));
        std::fs::remove_dir_all(&run).unwrap();
        let damaged = mlx_model(folder.path(), |_| f32::NAN);
        let error = prepare(&damaged, &|_| {}).err().unwrap().to_string();
        assert!(error.contains("model.safetensors: ") && error.contains("`model.layers.2.mlp.up_proj.weight`"), "{error}");
        assert!(error.contains("NaN in `scales`") && !run.exists(), "{error}");
    }

    /// A run of the quickstart's model on these rows, and a checkpoint of it whose best step is itself.
    #[test]
    fn other_training_rows_refuse_and_other_validations_forget_the_best() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, texts: &[&str]| {
            let rows: Vec<String> = texts.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
            let rows = rows.concat();
            std::fs::write(folder.path().join(file), rows).unwrap();
        };
        write("train.jsonl", &["one two three", "four five six"]);
        write("valid.jsonl", &["seven eight"]);
        let run = folder.path().join("run");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart/model");
        let config = TrainConfig {
            model: model.display().to_string(),
            data: folder.path().display().to_string(),
            output_dir: run.display().to_string(),
            backend: "cpu".to_owned(),
            ..TrainConfig::default()
        };
        let begun = PreparedRun::new(config.clone()).unwrap();
        let best = TrainerState { step: 5, best_step: Some(5), best_loss: Some(1.0), ..begun.state.clone() };
        RunCheckpoint::planted(&run, &best, &config.to_kept_toml());
        drop(begun);
        let resumed = |config: &TrainConfig| PreparedRun::new(TrainConfig { resume: "auto".to_owned(), ..config.clone() });
        let said = |config: &TrainConfig| {
            let prepared = resumed(config).unwrap();
            let line = prepared.notes.iter().find(|line| line.contains("is discarded")).cloned();
            assert_eq!(line.is_some(), prepared.state.best_step.is_none(), "{:?}", prepared.notes);
            line.unwrap_or_default()
        };
        assert_eq!(said(&config), "");
        let no_step_left = |iters: usize| {
            let prepared = resumed(&TrainConfig { iters, ..config.clone() }).unwrap();
            prepared.notes.iter().any(|line| line.starts_with("no step is left: the checkpoint is of step 5"))
        };
        assert_eq!([6, 5, 4].map(no_step_left), [false, true, true]);
        assert!(said(&TrainConfig { val_batches: 1, ..config.clone() }).starts_with("`val_batches` changed"));
        for texts in [&["seven eight", "nine"][..], &["nine"]] {
            write("valid.jsonl", texts);
            assert!(said(&config).starts_with("the validation rows changed since the checkpoint; the best step so far, 5,"));
        }
        std::fs::remove_file(folder.path().join("valid.jsonl")).unwrap();
        assert!(said(&config).starts_with("the validation rows changed"));
        write("train.jsonl", &["one two three", "four five seven"]);
        let error = resumed(&config).err().unwrap();
        assert!(error.to_string().starts_with("the training rows changed since the checkpoint"), "{error}");
        assert!(hint(&error).unwrap().contains("--allow-changed-inputs"));
        resumed(&TrainConfig { allow_changed_inputs: true, ..config }).unwrap();
    }

    #[test]
    fn a_dropout_of_the_model_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let asset = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart/model");
        for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(asset.join(file), folder.path().join(file)).unwrap();
        }
        std::fs::write(folder.path().join("train.jsonl"), "{\"text\": \"one two three\"}\n").unwrap();
        let mut json: Value = serde_json::from_slice(&std::fs::read(asset.join("config.json")).unwrap()).unwrap();
        let told = |json: &Value, run: &str| {
            std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
            let config = TrainConfig {
                model: folder.path().display().to_string(),
                data: folder.path().join("train.jsonl").display().to_string(),
                output_dir: folder.path().join(run).display().to_string(),
                backend: "cpu".to_owned(),
                ..TrainConfig::default()
            };
            PreparedRun::new(config).unwrap().notes.into_iter().filter(|line| line.contains("dropout")).collect::<Vec<_>>()
        };
        json["attention_dropout"] = 0.0.into();
        assert!(told(&json, "without").is_empty());
        json["attention_dropout"] = 0.1.into();
        let lines = told(&json, "with");
        assert!(
            lines.len() == 1 && lines[0].starts_with("`attention_dropout` in the model's config.json is 0.1"),
            "{lines:?}"
        );
    }

    #[test]
    fn early_stopping_and_the_best_model_need_validations() {
        let config = TrainConfig { early_stopping: 2, ..TrainConfig::default() };
        check_validation(&config, true).unwrap();
        for (config, has_rows) in [
            (config.clone(), false),
            (TrainConfig { steps_per_eval: 0, ..config }, true),
            (TrainConfig { load_best_model_at_end: true, ..TrainConfig::default() }, false),
        ] {
            let error = check_validation(&config, has_rows).unwrap_err();
            assert!(error.to_string().contains("validation") && hint(&error).is_some(), "{error}");
        }
        check_validation(&TrainConfig::default(), false).unwrap();
    }
}
