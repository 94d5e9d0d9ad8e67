//! The folder of a run: whether a run may write to it, and which checkpoint it resumes from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use super::changes::Changes;
use super::checkpoint::{self, RunCheckpoint, TrainerState};
use super::facts::FACTS;
use super::lock::{self, RunLock};
use super::metrics::StepMetrics;
use super::samples::SAMPLES;
use super::saved_config::{CONFIG, run_config};
use super::step_lines::StepLine;
use super::validation_lines::ValidationLine;
use crate::config::TrainConfig;
use burnish_engine::with_hint;
use burnish_export::target::remove_stale;
use burnish_models::atomic;

const METRICS: &str = StepMetrics::FILE;
/// The page that `burnish report` writes into the folder of a run.
const PAGE: &str = "report.html";

/// What was found in `output_dir`.
#[derive(Debug)]
pub struct Found {
    /// The checkpoint to resume from.
    pub checkpoint: Option<RunCheckpoint>,
    /// Keys that changed since that checkpoint and affect the validation loss.
    pub validation_keys: Vec<String>,
    /// Files and folders to delete before the run starts.
    doomed: Vec<PathBuf>,
    notes: Vec<String>,
    /// Held from here on, if the folder already exists.
    lock: Option<RunLock>,
}

/// Finds the checkpoint to resume from. Only the lock file is written.
///
/// # Errors
/// When the folder has a run or other files that may not be deleted, an input would be deleted, a named checkpoint is damaged, or its
/// adapter differs from the configuration.
pub fn find(config: &TrainConfig) -> Result<Found> {
    let run = PathBuf::from(&config.output_dir);
    // Before the lock, so that a folder of unrelated files gets no lock file.
    refuse_strangers(&run, config.overwrite)?;
    let lock = if run.is_dir() { Some(RunLock::take(&run)?) } else { None };
    let mut notes = Vec::new();
    let (checkpoint, doomed) = match config.resume.as_str() {
        "none" => (None, replaced(&run, config.overwrite)?),
        "auto" => {
            let (found, refused) = RunCheckpoint::newest(&run);
            notes.extend(refused.iter().map(|reason| format!("ignored a damaged checkpoint: {reason}")));
            if found.is_none() {
                notes.push(starting_over(&run));
            }
            (found, Vec::new())
        }
        path => {
            let found = RunCheckpoint::open(Path::new(path))?;
            let own = is_same(found.path.parent().unwrap_or(Path::new("")), &run);
            let doomed =
                if own { later(&run, found.state.step, config.overwrite)? } else { replaced(&run, config.overwrite)? };
            (Some(found), doomed)
        }
    };
    refuse_inputs(config, &doomed)?;
    let mut validation_keys = Vec::new();
    if let Some(checkpoint) = &checkpoint {
        notes.push(format!("resuming from {} (step {})", checkpoint.path.display(), checkpoint.state.step));
        let changes = Changes::since(&checkpoint.path, config, checkpoint.state.fingerprint.is_some());
        notes.extend(changes.lines(&checkpoint.path)?);
        validation_keys = changes.of_validation();
    }
    Ok(Found { checkpoint, validation_keys, doomed, notes, lock })
}

/// The note of a run without a checkpoint to resume from. Its folder may have the result of a finished run.
fn starting_over(run: &Path) -> String {
    let result = products(run).into_iter().find(|path| path.ends_with("adapter") || path.ends_with("model"));
    let replaced = result.map_or_else(String::new, |path| {
        format!("; {} is the result of a finished run, which this run will replace", path.display())
    });
    format!("no intact checkpoint to resume from; starting at step 1{replaced}")
}

/// Prepares `output_dir`, and makes sure that it has the checkpoint of the best step in `state`. Returns notes for the user, and the
/// lock of the folder.
///
/// # Errors
/// When a file can't be written, or another run uses the folder.
pub fn prepare(config: &TrainConfig, mut found: Found, state: &mut TrainerState) -> Result<(Vec<String>, RunLock)> {
    let run = PathBuf::from(&config.output_dir);
    if run.symlink_metadata().is_ok() && !run.is_dir() {
        bail!("{} is not a folder, so it can't hold a run; choose another output_dir", run.display());
    }
    fs::create_dir_all(&run).with_context(|| run.display().to_string())?;
    let lock = if let Some(lock) = found.lock.take() {
        lock
    } else {
        let lock = RunLock::take(&run)?;
        // The folder did not exist a moment ago, so anything in it now belongs to another run.
        replaced(&run, config.overwrite)?;
        lock
    };
    // The configuration marks the rest as a run's, even if this is killed halfway. It is replaced below.
    for path in found.doomed.iter().filter(|path| !path.ends_with(CONFIG)) {
        let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        gone.with_context(|| path.display().to_string())?;
    }
    found.notes.extend(lock.note(&run));
    tidy(&run)?;
    let stale = remove_stale(&run).into_iter();
    found.notes.extend(stale.map(|path| format!("deleted {}, left by a killed export", path.display())));
    let keeps_best = config.save_every > 0 || config.ends_with_best();
    if let Some(checkpoint) = found.checkpoint.as_ref().filter(|_| keeps_best) {
        found.notes.extend(bring_best(checkpoint, &run, state)?);
    }
    atomic::write_bytes(&run.join(CONFIG), config.to_kept_toml().as_bytes())?;
    Ok((found.notes, lock))
}

/// Removes files that a killed run left half-written, and restores those that it had moved aside and not yet replaced.
fn tidy(run: &Path) -> Result<()> {
    for name in names(run) {
        if let Some(kept) = beside(&name).filter(|kept| is_written(kept, true)) {
            atomic::recover(&run.join(kept))?;
        }
    }
    Ok(())
}

/// The final name of a file or folder whose temporary name, while it is written or replaced, is `name`.
fn beside(name: &str) -> Option<&str> {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(".new").or_else(|| name.strip_suffix(".old")))
}

/// Makes sure that the checkpoint of the best step is in this run's folder. If it can't be read, the best step is discarded.
fn bring_best(resumed: &RunCheckpoint, run: &Path, state: &mut TrainerState) -> Result<Option<String>> {
    let Some(step) = state.best_step else { return Ok(None) };
    let of = |folder: &Path| RunCheckpoint::open(&RunCheckpoint::folder(folder, step));
    if of(run).is_ok() {
        return Ok(None);
    }
    let from = resumed.path.parent().unwrap_or(Path::new(""));
    match of(from) {
        Ok(best) => {
            best.copy_to(run)?;
            Ok(Some(format!("copied the checkpoint of the best step so far ({step}) from {}", from.display())))
        }
        Err(error) => {
            state.forget_best();
            Ok(Some(format!("the best step so far ({step}) is discarded, because its checkpoint can't be read: {error:#}")))
        }
    }
}

/// The files of an earlier run, which the new run deletes.
///
/// # Errors
/// When there are any and they may not be deleted.
fn replaced(run: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
    refuse_strangers(run, overwrite)?;
    let products = products(run);
    let is_something = |path: &PathBuf| path.is_dir() || fs::metadata(path).is_ok_and(|file| file.len() > 0);
    // These are written before the first step, or can be made again.
    let is_work =
        |path: &PathBuf| ![CONFIG, FACTS, PAGE, "tensorboard", "trackio", "wandb"].iter().any(|name| path.ends_with(name));
    let has_begun = products.iter().any(|path| is_work(path) && is_something(path));
    if has_begun && !overwrite {
        return Err(with_hint(
            format!("{} already has a run", run.display()),
            "--resume auto continues it, --overwrite deletes it; or choose another --output-dir",
        ));
    }
    Ok(products)
}

/// Checkpoints after the one that the run resumes from, which the new run deletes.
///
/// # Errors
/// When there are any and they may not be deleted.
fn later(run: &Path, step: usize, overwrite: bool) -> Result<Vec<PathBuf>> {
    let newer: Vec<(usize, PathBuf)> = checkpoint::list(run).into_iter().filter(|(other, _)| *other > step).collect();
    match newer.last() {
        Some((last, _)) if !overwrite => Err(with_hint(
            format!("{} has checkpoints after step {step}, up to step {last}", run.display()),
            "--resume auto continues from the newest, --overwrite deletes the later ones; or choose another --output-dir",
        )),
        _ => Ok(newer.into_iter().map(|(_, path)| path).collect()),
    }
}

/// Refuses a folder of unrelated files.
///
/// # Errors
/// When the folder has no run, but files under names that a run writes or, without `overwrite`, any files.
fn refuse_strangers(run: &Path, overwrite: bool) -> Result<()> {
    if !products(run).is_empty() {
        return Ok(());
    }
    let names = names(run);
    let in_the_way = names.iter().find(|name| !overwrite || is_written(name, true));
    in_the_way.map_or(Ok(()), |name| {
        Err(with_hint(
            format!("{} has no run, but contains other files, such as `{name}`", run.display()),
            "choose another --output-dir",
        ))
    })
}

/// Refuses to delete an input of the run.
///
/// # Errors
/// When `doomed` contains an input.
fn refuse_inputs(config: &TrainConfig, doomed: &[PathBuf]) -> Result<()> {
    let inputs = [
        ("model", Some(config.model.as_str())),
        ("model_config", config.model_config.as_deref()),
        ("adapter", config.adapter.as_deref()),
        ("data", Some(config.data.as_str())),
        ("resume", Some(config.resume.as_str())),
    ];
    // Several files are separated by commas, each with a weight or without.
    let parts = config.data.split(',').map(str::trim);
    let parts = parts.flat_map(|part| [Some(part), part.rsplit_once(':').map(|(name, _)| name)]).map(|part| ("data", part));
    for (key, input) in inputs.into_iter().chain(parts) {
        let Some(Ok(input)) = input.filter(|path| !path.is_empty()).map(|path| Path::new(path).canonicalize()) else {
            continue;
        };
        for path in doomed {
            if path.canonicalize().is_ok_and(|path| input.starts_with(path)) {
                return Err(with_hint(
                    format!("`{key}` is {}, which --overwrite would delete", input.display()),
                    "choose another --output-dir",
                ));
            }
        }
    }
    Ok(())
}

/// The files and folders that a run wrote, and no others; empty if the folder has no run.
fn products(run: &Path) -> Vec<PathBuf> {
    let config = run_config(&run.join(CONFIG)).or_else(|| config_of_checkpoint(run));
    let Some(config) = config else { return Vec::new() };
    let is_full = config.get("fine_tune_type").and_then(Value::as_str) == Some("full");
    names(run).into_iter().filter(|name| is_written(name, is_full)).map(|name| run.join(name)).collect()
}

/// Whether a run writes a file or folder of this name, or may leave it behind when killed.
fn is_written(name: &str, is_full: bool) -> bool {
    let name = beside(name).unwrap_or(name);
    let is_file = matches!(name, CONFIG | METRICS | ValidationLine::FILE | SAMPLES | FACTS | PAGE);
    is_file
        || matches!(name, "adapter" | "tensorboard" | "trackio" | "wandb")
        || (is_full && name == "model")
        || checkpoint::step_of(name).is_some()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != lock::NAME).collect();
    names.sort_unstable();
    names
}

/// The configuration saved in the newest intact checkpoint, if that of the run is missing or truncated.
fn config_of_checkpoint(run: &Path) -> Option<Table> {
    let text = fs::read_to_string(run.join(CONFIG)).unwrap_or_default();
    let is_known = |line: &str, is_whole: bool| {
        let key = line.split('=').next().unwrap_or_default().trim();
        let mut names = TrainConfig::KEYS.iter().map(|key| key.name);
        let is_key = if is_whole { names.any(|name| name == key) } else { names.any(|name| name.starts_with(key)) };
        is_key || line.is_empty() || line.starts_with([' ', '"', ']'])
    };
    let mut lines = text.lines().rev();
    let is_truncated =
        lines.next().is_none_or(|last| is_known(last, last.contains('='))) && lines.all(|line| is_known(line, true));
    let mut checkpoints = checkpoint::list(run).into_iter().rev().filter(|_| is_truncated);
    checkpoints.find_map(|(_, checkpoint)| run_config(&RunCheckpoint::open(&checkpoint).ok()?.path.join(CONFIG)))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let path = |path: &Path| if path.as_os_str().is_empty() { Path::new(".") } else { path }.canonicalize();
    matches!((path(one), path(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    /// A folder with the files of a run, and files of the user beside them.
    fn occupied(folder: &Path, config: &TrainConfig) {
        for name in [
            "tensorboard",
            "trackio",
            "wandb",
            "checkpoint-5",
            "adapter",
            ".checkpoint-6.new",
            "models",
            "model",
            "adapter_notes",
            "checkpoint-best",
        ] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("file"), "x").unwrap();
        }
        for name in [METRICS, ValidationLine::FILE, SAMPLES, FACTS, PAGE, "modelcard.md", "rows.jsonl"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        fs::write(folder.join(CONFIG), config.to_toml()).unwrap();
    }

    fn config(folder: &Path) -> TrainConfig {
        TrainConfig { output_dir: folder.display().to_string(), overwrite: true, ..TrainConfig::default() }
    }

    #[test]
    fn only_what_a_run_wrote_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        occupied(folder.path(), &config);
        let error = find(&TrainConfig { overwrite: false, ..config.clone() }).unwrap_err();
        assert!(error.to_string().contains("already has a run"), "{error}");
        prepare(&config, find(&config).unwrap(), &mut TrainerState::default()).unwrap();
        let left = ["adapter_notes", "checkpoint-best", CONFIG, "model", "modelcard.md", "models", "rows.jsonl"];
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    fn inputs_are_not_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        occupied(folder.path(), &config);
        let inside = |name: &str| folder.path().join(name).display().to_string();
        for (key, config) in [
            ("adapter", TrainConfig { adapter: Some(inside("adapter")), ..config.clone() }),
            ("model", TrainConfig { model: inside("checkpoint-5"), ..config.clone() }),
            ("data", TrainConfig { data: inside("checkpoint-5/file"), ..config.clone() }),
        ] {
            let error = find(&config).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}` is ")) && hint(&error).is_some(), "{error}");
        }
        // The user's own folders don't belong to the run.
        find(&TrainConfig { model: inside("model"), data: inside("rows.jsonl"), ..config }).unwrap();
    }

    #[test]
    fn a_folder_of_unrelated_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        fs::write(folder.path().join("notes"), "x").unwrap();
        for resume in ["none", "auto"] {
            let asked = TrainConfig { overwrite: false, resume: resume.to_owned(), ..config.clone() };
            let error = find(&asked).unwrap_err();
            assert!(error.to_string().contains("`notes`"), "{error}");
        }
        find(&config).unwrap();
        fs::write(folder.path().join(CONFIG), "mine = 1").unwrap();
        let error = find(&config).unwrap_err();
        assert!(error.to_string().contains("`config.toml`"), "{error}");
    }

    #[test]
    fn a_run_with_a_truncated_configuration_uses_that_of_a_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { resume: "auto".to_owned(), overwrite: false, ..config(folder.path()) };
        let state = TrainerState { step: 3, ..TrainerState::default() };
        RunCheckpoint::planted(folder.path(), &state, &config.to_toml());
        let whole = config.to_toml();
        for cut in ["", &whole[..40], &whole[..whole.len() / 2], whole.lines().next().unwrap()] {
            fs::write(folder.path().join(CONFIG), cut).unwrap();
            assert_eq!(find(&config).unwrap().checkpoint.unwrap().state.step, 3, "{cut}");
        }
        fs::remove_file(folder.path().join(CONFIG)).unwrap();
        find(&config).unwrap();
        // A file that is not from a run is not replaced.
        for other in ["mine = 1", "[section]\nmodel = \"a\"", "model: a\nmore"] {
            fs::write(folder.path().join(CONFIG), other).unwrap();
            assert!(find(&config).unwrap_err().to_string().contains("has no run, but contains other files"), "{other}");
        }
    }

    #[test]
    fn a_run_without_steps_is_replaced_without_asking() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { overwrite: false, ..config(folder.path()) };
        prepare(&config, find(&config).unwrap(), &mut TrainerState::default()).unwrap();
        find(&config).unwrap();
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_or_restored() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".checkpoint-3.new", ".checkpoint-4.old", "checkpoint-4", ".adapter.old", ".notes.old"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join(".config.toml.new"), "half").unwrap();
        tidy(folder.path()).unwrap();
        assert_eq!(names(folder.path()), [".notes.old", "adapter", "checkpoint-4"]);
    }

    #[test]
    fn two_runs_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { overwrite: false, ..config(&folder.path().join("run")) };
        let (first, second) = (find(&config).unwrap(), find(&config).unwrap());
        let (_, held) = prepare(&config, first, &mut TrainerState::default()).unwrap();
        let error = prepare(&config, second, &mut TrainerState::default()).unwrap_err();
        assert!(error.to_string().contains("in use by process"), "{error}");
        assert!(find(&config).unwrap_err().to_string().contains("in use by process"));
        drop(held);
        find(&config).unwrap();
    }

    #[test]
    fn the_best_checkpoint_is_copied_or_discarded() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let save = |step: usize| {
            let state = TrainerState { step, best_step: Some(1), best_loss: Some(0.5), ..TrainerState::default() };
            RunCheckpoint::open(&RunCheckpoint::planted(old.path(), &state, "")).unwrap()
        };
        let (best, last) = (save(1), save(2));
        let mut state = last.state.clone();
        let note = bring_best(&last, new.path(), &mut state).unwrap().unwrap();
        assert!(note.contains("copied") && state.best_step == Some(1), "{note}");
        RunCheckpoint::open(&RunCheckpoint::folder(new.path(), 1)).unwrap();
        assert!(bring_best(&last, new.path(), &mut state).unwrap().is_none());
        fs::write(best.path.join("config.toml"), "damaged").unwrap();
        let note = bring_best(&last, old.path(), &mut state).unwrap().unwrap();
        assert!(note.contains("discarded") && state.best_step.is_none() && state.best_loss.is_none(), "{note}");
    }

    #[test]
    fn allowed_changes_are_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { allow_changed_inputs: true, ..config(&folder.path().join("run")) };
        prepare(&config, find(&config).unwrap(), &mut TrainerState::default()).unwrap();
        let kept = fs::read_to_string(folder.path().join("run").join(CONFIG)).unwrap();
        let kept: TrainConfig = toml::from_str(&kept).unwrap();
        assert_eq!(kept, TrainConfig { overwrite: false, allow_changed_inputs: false, ..config });
    }

    #[test]
    fn a_result_without_a_checkpoint_is_replaced_with_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { resume: "auto".to_owned(), overwrite: false, ..config(folder.path()) };
        fs::write(folder.path().join(CONFIG), config.to_toml()).unwrap();
        let said = || find(&config).unwrap().notes;
        assert_eq!(said(), ["no intact checkpoint to resume from; starting at step 1"]);
        fs::create_dir(folder.path().join("adapter")).unwrap();
        assert!(said()[0].contains("is the result of a finished run"), "{:?}", said());
    }
}
