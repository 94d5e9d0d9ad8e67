//! Training with the frozen model in f16 and bf16, compared with f32.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use burn::tensor::DType;
use burn_train::Interrupter;
use burnish_export::{GgufOptions, GgufType, export_gguf};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::gguf::GgufFile;
use burnish_models::{Checkpoint, FloatType, Pretrained};
use burnish_recipes::config::{LrScheduler, TrainConfig};
use burnish_recipes::hint::hint;
use burnish_recipes::train::{Evaluation, Events, MetricsFile, PreparedRun, StepMetrics, train};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Records the events of a run.
#[derive(Default)]
struct Kept {
    steps: Vec<StepMetrics>,
    notes: Vec<String>,
}

impl Events for Kept {
    fn step(&mut self, metrics: &StepMetrics, _: usize) {
        self.steps.push(metrics.clone());
    }
    fn evaluation(&mut self, _: usize, _: &Evaluation, _: bool) {}
    fn checkpoint(&mut self, _: &Path) {}
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart")
}

/// A short run on the tiny model of the quickstart.
fn config(run: &Path, backend: &str, dtype: &str) -> TrainConfig {
    TrainConfig {
        model: assets().join("model").display().to_string(),
        data: assets().join("data/train.jsonl").display().to_string(),
        output_dir: run.display().to_string(),
        backend: backend.to_owned(),
        dtype: dtype.to_owned(),
        iters: 10,
        batch_size: 4,
        rank: 4,
        learning_rate: 1e-3,
        save_every: 0,
        steps_per_eval: 0,
        ..TrainConfig::default()
    }
}

fn run(config: TrainConfig) -> Result<Kept> {
    let kept = Arc::new(Mutex::new(Kept::default()));
    train(PreparedRun::new(config)?, kept.clone(), Interrupter::new())?;
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    Ok(kept)
}

fn losses(config: TrainConfig) -> Vec<f32> {
    run(config).unwrap().steps.iter().map(|step| step.loss as f32).collect()
}

/// Some steps have the losses of f32 on the CPU.
fn equals_f32(backend: &str, dtype: FloatType, more: impl Fn(TrainConfig) -> TrainConfig) {
    let folder = tempfile::tempdir().unwrap();
    let of = |backend: &str, dtype: FloatType| {
        let run = folder.path().join(format!("{backend}-{dtype}"));
        losses(more(config(&run, backend, dtype.name())))
    };
    let expected = of("cpu", FloatType::F32);
    let found = of(backend, dtype);
    println!("{backend} {dtype}: {found:?}\ncpu f32: {expected:?}");
    Tolerance::of(DType::from(dtype)).check(&format!("losses of {backend} in {dtype}"), &found, &expected).unwrap();
}

#[test]
fn f16_and_bf16_on_the_cpu_equal_f32() {
    equals_f32("cpu", FloatType::F16, |config| config);
    equals_f32("cpu", FloatType::BF16, |config| config);
}

/// With dropout, the adapter is an operation of its own.
#[test]
fn f16_with_dropout_and_accumulation_equals_f32() {
    equals_f32("cpu", FloatType::F16, |config| TrainConfig { dropout: 0.1, grad_accumulation_steps: 2, ..config });
}

/// Runs on software Vulkan, which has f16 but no bf16, and with the same kernels on macOS as MSL.
#[cfg(feature = "metal")]
#[test]
fn f16_on_our_runtime_equals_f32() {
    equals_f32(if cfg!(target_os = "macos") { "metal" } else { "vulkan" }, FloatType::F16, |config| TrainConfig {
        iters: 4,
        batch_size: 2,
        ..config
    });
}

/// Two hundred steps lie within a hundredth of those in f32, though gradients overflow after the second one.
#[cfg(feature = "metal")]
#[test]
#[ignore = "takes minutes"]
fn two_hundred_steps_in_f16_with_an_overflow_equal_f32() {
    let folder = tempfile::tempdir().unwrap();
    let long = |name: &str, backend: &str, dtype: &str, iters: usize| {
        let config = config(&folder.path().join(name), backend, dtype);
        TrainConfig { iters, learning_rate: 5e-5, lr_scheduler: LrScheduler::Constant, warmup: 0.0, ..config }
    };
    let expected = losses(long("f32", "cpu", "f32", 200));
    let ours = if cfg!(target_os = "macos") { "metal" } else { "vulkan" };
    let mut found = losses(TrainConfig { save_every: 2, ..long("f16", ours, "f16", 2) });
    // One skipped step, so that the rest of the run lags by one update.
    plant_scale(&folder.path().join("f16/checkpoint-2"), 2f64.powi(18));
    let kept = run(TrainConfig { resume: "auto".to_owned(), ..long("f16", ours, "f16", 200) }).unwrap();
    found.extend(kept.steps.iter().map(|step| step.loss as f32));
    let skipped = kept.steps.last().unwrap().skipped;
    let apart = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs() / expected);
    let apart = apart.fold(0.0, f32::max);
    println!("{skipped} steps skipped; losses {} to {}, at most {apart} apart", expected[0], expected[199]);
    assert!(found.len() == 200 && skipped > 0 && apart < 1e-2, "{skipped} skipped, {apart} apart");
    assert!(expected[199] < 0.9 * expected[0], "{expected:?}");
}

/// SPIR-V has no bf16 arithmetic, and cubecl 0.10 no bf16 on Metal.
#[cfg(feature = "metal")]
#[test]
fn an_unsupported_dtype_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let ours = if cfg!(target_os = "macos") { "metal" } else { "vulkan" };
    let run_folder = folder.path().join("run");
    let error = run(config(&run_folder, ours, "bf16")).err().unwrap();
    assert!(error.to_string().contains("does not support bf16"), "{error}");
    assert!(hint(&error).unwrap().contains("f32 and f16"), "{:?}", hint(&error));
    assert!(!run_folder.exists());
}

/// The default on a Mac, with the kernels that it would run.
#[cfg(feature = "emulator")]
#[test]
fn steps_in_f16_in_the_emulator_equal_f32() {
    equals_f32("emulator", FloatType::F16, |config| TrainConfig { iters: 2, batch_size: 2, ..config });
}

#[test]
fn the_chosen_dtype_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let prepared = PreparedRun::new(config(&run_folder, "cpu", "auto")).unwrap();
    assert_eq!(prepared.dtype.dtype, FloatType::F32);
    assert!(fs::read_to_string(run_folder.join("config.toml")).unwrap().contains("dtype = \"f32\""));
}

/// A copy of the tiny model in f32, with the first weight of one tensor replaced.
fn with_weight(folder: &Path, tensor: &str, weight: f32) {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(assets().join("model")).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let model = SafetensorsFolder::open(&assets().join("model")).unwrap();
    let read = |name: String| {
        let mut values = model.read_f32(&name).unwrap();
        if name == tensor {
            values[0] = weight;
        }
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        (model.shape(&name).unwrap(), bytes, name)
    };
    let tensors: Vec<_> = model.names().into_iter().map(read).collect();
    let views = tensors.iter().map(|(shape, bytes, name)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_weight_beyond_the_range_of_f16_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    with_weight(&model, "model.layers.1.input_layernorm.weight", 70_000.0);
    let of = |dtype: &str| {
        let config = config(&folder.path().join(dtype), "cpu", dtype);
        run(TrainConfig { model: model.display().to_string(), iters: 1, ..config })
    };
    let error = of("f16").err().unwrap();
    assert!(error.to_string().contains("`model.layers.1.input_layernorm.weight` has the weight 70000"), "{error}");
    assert!(hint(&error).unwrap().contains("bf16"), "{:?}", hint(&error));
    assert_eq!(of("bf16").unwrap().steps.len(), 1);
}

/// Half-precision files are not converted through f32, and GGUF's order of query and key rows is still undone.
#[test]
fn half_precision_weights_are_read_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let model = Pretrained::open(assets().join("model")).unwrap();
    for kind in [FloatType::F16, FloatType::BF16].map(GgufType::Float) {
        let path = folder.path().join("model.gguf");
        export_gguf(&model, &*model.checkpoint, &path, &GgufOptions { kind, overwrite: true, ..GgufOptions::default() })
            .unwrap();
        let file = GgufFile::open(&path).unwrap();
        for checkpoint in [&file as &dyn Checkpoint, &*model.checkpoint] {
            for (name, dtype) in checkpoint.names().iter().flat_map(|name| FloatType::ALL.map(|dtype| (name, dtype))) {
                let read = checkpoint.read(name, dtype).unwrap();
                let converted = dtype.convert(name, checkpoint.read_f32(name).unwrap()).unwrap();
                assert!(read.dtype == converted.dtype && read.as_bytes() == converted.as_bytes(), "{name} as {dtype}");
            }
        }
    }
}

/// The metrics of each step, without the times.
fn taken(folder: &Path) -> Vec<(usize, f64, String, usize)> {
    let steps = MetricsFile::read(folder).unwrap().into_iter();
    steps.map(|step| (step.step, step.loss, step.grad_norm.to_string(), step.skipped)).collect()
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

/// Sets the loss scale of a checkpoint.
fn plant_scale(checkpoint: &Path, scale: f64) {
    let path = checkpoint.join("trainer_state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(state["loss_scale"]["scale"].is_f64());
    state["loss_scale"]["scale"] = scale.into();
    let text = state.to_string();
    fs::write(&path, &text).unwrap();
    let path = checkpoint.join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let sha256 = Sha256::digest(&text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    manifest["files"]["trainer_state.json"] = serde_json::json!({ "bytes": text.len(), "sha256": sha256 });
    fs::write(&path, manifest.to_string()).unwrap();
}

/// Makes a run look as if it had been killed after a step.
fn forget(run: &Path, after: usize) {
    fs::remove_dir_all(run.join("adapter")).unwrap();
    for step in after + 1..=16 {
        fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
    }
}

#[test]
fn an_overflow_skips_steps_and_a_resumed_run_in_f16_equals_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let config = TrainConfig { iters: 16, save_every: 1, save_total_limit: 0, ..config(&run_folder, "cpu", "f16") };
    let resumed = TrainConfig { resume: "auto".to_owned(), ..config.clone() };
    run(config).unwrap();
    let (uninterrupted, result) = (taken(&run_folder), adapter(&run_folder));
    assert_eq!(uninterrupted.len(), 16);
    forget(&run_folder, 6);
    run(resumed.clone()).unwrap();
    assert!(taken(&run_folder) == uninterrupted && adapter(&run_folder) == result, "{:?}", taken(&run_folder));

    // With this scale the gradients overflow after step 2, until the scale is low enough.
    forget(&run_folder, 2);
    plant_scale(&run_folder.join("checkpoint-2"), 2f64.powi(23));
    let kept = run(resumed.clone()).unwrap();
    let skips: Vec<bool> = kept.steps.iter().map(|step| !step.grad_norm.is_finite()).collect();
    let skipped = kept.steps.last().unwrap().skipped;
    assert!(skips[0] && !skips[13] && skips.iter().filter(|skip| **skip).count() == skipped, "{skips:?}");
    assert!(kept.notes.len() == skipped && kept.notes[0].contains("step 3 was skipped (1 so far)"), "{:?}", kept.notes);
    let (uninterrupted, result) = (taken(&run_folder), adapter(&run_folder));
    for done in [12, 4, 3] {
        forget(&run_folder, done);
        run(resumed.clone()).unwrap();
        assert!(taken(&run_folder) == uninterrupted && adapter(&run_folder) == result, "resumed after step {done}");
    }

    // From this scale, too many steps would be skipped.
    forget(&run_folder, 2);
    plant_scale(&run_folder.join("checkpoint-2"), 2f64.powi(80));
    let error = run(TrainConfig { iters: 40, ..resumed }).err().unwrap();
    assert!(error.to_string().contains("the gradient of step 22 is not finite"), "{error}");
    assert!(hint(&error).unwrap().contains("bf16"), "{:?}", hint(&error));
    assert!(run_folder.join("checkpoint-21").exists());
}
