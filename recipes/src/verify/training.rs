//! A training run that must overfit, and one that is resumed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use burn_train::Interrupter;
use burnish_models::Checkpoint;
use burnish_models::checkpoint::SafetensorsFolder;

use super::depth;
use super::findings::Findings;
use super::issues::whom;
use super::target::Target;
use crate::config::{LrScheduler, TrainConfig};
use crate::train::{End, Events, PreparedRun, RunCheckpoint, StepMetrics, train};

const ROWS: usize = 2;
const STEPS: usize = 20;

/// The step of the checkpoint that the run is resumed from.
const RESUMED: usize = 12;

/// The largest loss of the last step: it begins at 2.5, and PEFT ends below 0.01.
const OVERFIT: f64 = 0.1;

/// The losses of a run.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Events for Losses {
    fn step(&mut self, metrics: &StepMetrics, _total: usize) {
        self.0.push(metrics.loss);
    }
}

/// Gradients by depth, overfitting, adapters that are not zero, and a resume.
///
/// # Errors
/// When the device fails, or files can't be written.
pub(super) fn check(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    depth::check(target, &mut findings)?;
    let config = config(target)?;
    let (losses, adapter) = run(config.clone())?;
    judge(target, &mut findings, &losses, &adapter)?;
    resume(config, &losses, &adapter, &mut findings)?;
    let [first, last] = [losses.first(), losses.last()].map(|loss| loss.copied().unwrap_or(f64::NAN));
    let [short, long] = depth::lengths(target.backend);
    findings.summary = format!(
        "gradients by depth over {short} and {long} tokens equal the CPU's; loss {first:.2} to {last:.3} in {STEPS} steps; resumed, \
         equal to the bit"
    );
    if target.backend == "cpu" {
        findings.summary = findings.summary.replace("equal the CPU's", "are the same packed and apart");
    }
    Ok(findings)
}

/// Two conversations, again and again.
fn config(target: &Target<'_>) -> Result<TrainConfig> {
    let data = target.folders.run.with_file_name("verify-rows");
    std::fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
    let all = target.folders.data.join("train.jsonl");
    let text = std::fs::read_to_string(&all).with_context(|| all.display().to_string())?;
    let rows: Vec<&str> = text.lines().take(ROWS).collect();
    let path = data.join("train.jsonl");
    std::fs::write(&path, rows.join("\n") + "\n").with_context(|| path.display().to_string())?;
    Ok(TrainConfig {
        model: target.folders.model.display().to_string(),
        data: data.display().to_string(),
        output_dir: target.folders.run.with_file_name("verify-run").display().to_string(),
        backend: target.backend.to_owned(),
        dtype: target.dtype.name().to_owned(),
        overwrite: true,
        max_seq_length: 128,
        batch_size: ROWS,
        iters: STEPS,
        rank: 8,
        alpha: 16.0,
        dropout: 0.05,
        learning_rate: 1e-2,
        lr_scheduler: LrScheduler::Constant,
        warmup: 2.0,
        save_every: RESUMED,
        save_total_limit: 0,
        ..TrainConfig::default()
    })
}

/// Runs to the end; returns the losses, and the adapter's folder.
fn run(config: TrainConfig) -> Result<(Vec<f64>, PathBuf)> {
    let losses = Arc::new(Mutex::new(Losses::default()));
    let summary = train(PreparedRun::new(config)?, losses.clone(), Interrupter::new())?;
    ensure!(summary.end == End::Finished, "the run ended early");
    let adapter = summary.output.context("the run wrote no adapter")?;
    let losses = std::mem::take(&mut losses.lock().unwrap_or_else(PoisonError::into_inner).0);
    Ok((losses, adapter))
}

fn judge(target: &Target<'_>, findings: &mut Findings, losses: &[f64], adapter: &Path) -> Result<()> {
    let last = losses.last().copied().unwrap_or(f64::NAN);
    let overfits = last <= OVERFIT;
    findings.detail(format!("loss after {STEPS} steps on {ROWS} rows: {last:.4}"), overfits);
    if !overfits {
        findings.fail(
            "overfitting",
            format!("after {STEPS} steps on the same {ROWS} rows the loss is {last:.4}, more than {OVERFIT}"),
            "training runs, but does not learn, on this device",
            target.whom_for_kernels(),
        );
    }
    let zero = zero_factors(adapter)?;
    findings.detail("no B of the adapters is zero", zero.is_empty());
    if let Some(first) = zero.first() {
        findings.fail(
            "adapters",
            format!("{} adapters still have a B of zeros, first `{first}`", zero.len()),
            "these adapters received no gradient: the run changes nothing in their layers",
            target.whom_for_kernels(),
        );
    }
    Ok(())
}

/// The names of all B that are zero.
fn zero_factors(adapter: &Path) -> Result<Vec<String>> {
    let folder = SafetensorsFolder::from_files(&[adapter.join("adapter_model.safetensors")])?;
    let names: Vec<String> = folder.names().into_iter().filter(|name| name.contains("lora_B")).collect();
    ensure!(!names.is_empty(), "{} has no B", adapter.display());
    let mut zero = Vec::new();
    for name in names {
        if folder.read_f32(&name)?.iter().all(|value| *value == 0.0) {
            zero.push(name);
        }
    }
    Ok(zero)
}

/// Takes the run back to its checkpoint in the middle, as if it had been killed, and resumes it.
fn resume(config: TrainConfig, losses: &[f64], adapter: &Path, findings: &mut Findings) -> Result<()> {
    let file = adapter.join("adapter_model.safetensors");
    let read = || std::fs::read(&file).with_context(|| file.display().to_string());
    let expected = read()?;
    let run_folder = Path::new(&config.output_dir);
    for folder in [RunCheckpoint::folder(run_folder, STEPS), adapter.to_owned()] {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let (again, _) = run(TrainConfig { resume: "auto".to_owned(), overwrite: false, ..config })?;
    let before = losses.get(RESUMED..).unwrap_or_default();
    let differs = before.iter().zip(&again).position(|(before, again)| before.to_bits() != again.to_bits());
    let mut problem = match differs {
        Some(at) => Some(format!("the loss of step {} is {}, and was {} before", RESUMED + at + 1, again[at], before[at])),
        None if before.len() != again.len() => Some(format!("{} steps were taken, not {}", again.len(), before.len())),
        None => None,
    };
    if problem.is_none() && read()? != expected {
        problem = Some("the losses are the same, but the adapter is not".to_owned());
    }
    findings.detail(format!("resumed at step {RESUMED}: losses and adapter are equal to the bit"), problem.is_none());
    if let Some(what) = problem {
        let means = "a run that is stopped and resumed ends with another adapter than one that is not";
        findings.fail("resume", what, means, whom());
    }
    Ok(())
}
