//! The folder of a run: whether a run may write to it, and which checkpoint it resumes from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::checkpoint::{self, RunCheckpoint, TrainerState};
use super::lock::{self, RunLock};
use crate::config::TrainConfig;
use burnish_engine::with_hint;
use burnish_models::atomic;

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";

/// What was found in `output_dir`.
#[derive(Debug)]
pub struct Found {
    /// The checkpoint to resume from.
    pub checkpoint: Option<RunCheckpoint>,
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
                notes.push("no intact checkpoint to resume from; starting at step 1".to_owned());
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
    if let Some(checkpoint) = &checkpoint {
        notes.push(format!("resuming from {} (step {})", checkpoint.path.display(), checkpoint.state.step));
        notes.extend(changed_keys(config, &checkpoint.path, checkpoint.state.fingerprint.is_some())?);
    }
    Ok(Found { checkpoint, doomed, notes, lock })
}

/// Prepares `output_dir`, and makes sure that it has the checkpoint of the best step in `state`. Returns notes for the user, and the
/// lock of the folder.
///
/// # Errors
/// When a file can't be written, or another run uses the folder.
pub fn prepare(config: &TrainConfig, mut found: Found, state: &mut TrainerState) -> Result<(Vec<String>, RunLock)> {
    let run = PathBuf::from(&config.output_dir);
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
    tidy(&run)?;
    let keeps_best = config.save_every > 0 || config.ends_with_best();
    if let Some(checkpoint) = found.checkpoint.as_ref().filter(|_| keeps_best) {
        found.notes.extend(bring_best(checkpoint, &run, state)?);
    }
    atomic::write_bytes(&run.join(CONFIG), config.to_toml().as_bytes())?;
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
    let has_begun = products.iter().any(|path| !path.ends_with(CONFIG) && is_something(path));
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
        ("model", Some(&config.model)),
        ("model_config", config.model_config.as_ref()),
        ("adapter", config.adapter.as_ref()),
        ("data", Some(&config.data)),
        ("resume", Some(&config.resume)),
    ];
    for (key, input) in inputs {
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
    let Some(config) = run_config(&run.join(CONFIG)) else { return Vec::new() };
    let is_full = config.get("fine_tune_type").and_then(Value::as_str) == Some("full");
    names(run).into_iter().filter(|name| is_written(name, is_full)).map(|name| run.join(name)).collect()
}

/// Whether a run writes a file or folder of this name, or may leave it behind when killed.
fn is_written(name: &str, is_full: bool) -> bool {
    let name = beside(name).unwrap_or(name);
    matches!(name, CONFIG | METRICS | "adapter") || (is_full && name == "model") || checkpoint::step_of(name).is_some()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != lock::NAME).collect();
    names.sort_unstable();
    names
}

/// The configuration of a run, or `None` if the file is something else.
fn run_config(path: &Path) -> Option<Table> {
    let table: Table = toml::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let is_run = ["output_dir", "fine_tune_type", "resume"].iter().all(|key| table.contains_key(*key));
    is_run.then_some(table)
}

fn is_same(one: &Path, other: &Path) -> bool {
    let path = |path: &Path| if path.as_os_str().is_empty() { Path::new(".") } else { path }.canonicalize();
    matches!((path(one), path(other)), (Ok(one), Ok(other)) if one == other)
}

/// Notes on keys that changed since the checkpoint and affect the rest of the run.
///
/// # Errors
/// When the configuration trains other parameters than the checkpoint has.
fn changed_keys(config: &TrainConfig, checkpoint: &Path, has_fingerprint: bool) -> Result<Vec<String>> {
    // These decide when and where files are written, or how the run started, but not what is learned from here on.
    const HARMLESS: [&str; 9] = [
        "resume",
        "overwrite",
        "output_dir",
        "save_every",
        "save_total_limit",
        "steps_per_report",
        "adapter",
        "allow_changed_inputs",
        "skip_bad_rows",
    ];
    // The fingerprint compares the inputs themselves, which is better than comparing their paths.
    const INPUTS: [&str; 2] = ["model", "data"];
    const FIXED: [&str; 6] = ["fine_tune_type", "rank", "alpha", "rslora", "target_modules", "num_layers"];
    let Some(old) = run_config(&checkpoint.join(CONFIG)) else { return Ok(Vec::new()) };
    let new: Table = toml::from_str(&config.to_toml()).unwrap_or_default();
    let defaults: Table = toml::from_str(&TrainConfig::default().to_toml()).unwrap_or_default();
    // Keys that the checkpoint's version did not have count as their defaults.
    let before = |key: &str| old.get(key).or_else(|| defaults.get(key));
    let is_told = |key: &str| !(HARMLESS.contains(&key) || FIXED.contains(&key) || has_fingerprint && INPUTS.contains(&key));
    // A run that started from an adapter has the adapter's shape, whatever these keys say.
    let from_adapter = old.contains_key("adapter");
    let mut lines = Vec::new();
    for (key, value) in new.iter().filter(|(key, value)| before(key) != Some(value)) {
        let key = key.as_str();
        let before = before(key).map_or_else(String::new, |before| format!("was {before} and "));
        if FIXED.contains(&key) && (key == "fine_tune_type" || !from_adapter) {
            return Err(with_hint(
                format!("`{key}` {before}is now {value}, but {} has the old value", checkpoint.display()),
                "resume with the old value, or start a new run in another --output-dir",
            ));
        }
        if is_told(key) {
            lines.push(format!("`{key}` {before}is now {value}: the run will differ from an uninterrupted one"));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    /// A folder with the files of a run, and files of the user beside them.
    fn occupied(folder: &Path, config: &TrainConfig) {
        for name in ["checkpoint-5", "adapter", ".checkpoint-6.new", "models", "model", "adapter_notes", "checkpoint-best"] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("file"), "x").unwrap();
        }
        for name in [METRICS, "modelcard.md", "rows.jsonl"] {
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
            let path = RunCheckpoint::save(old.path(), &state, "", &[], |_| Ok(())).unwrap();
            RunCheckpoint::open(&path).unwrap()
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
    fn keys_that_shape_the_adapter_can_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        fs::write(folder.path().join(CONFIG), config.to_toml()).unwrap();
        let changed = |config: &TrainConfig| changed_keys(config, folder.path(), true);
        assert!(changed(&config).unwrap().is_empty());
        let lines = changed(&TrainConfig { learning_rate: 1.0, save_every: 7, ..config.clone() }).unwrap();
        assert!(lines.len() == 1 && lines[0].contains("`learning_rate` was"), "{lines:?}");
        for other in [TrainConfig { rank: 3, ..config.clone() }, TrainConfig { alpha: 3.0, ..config.clone() }] {
            assert!(changed(&other).unwrap_err().to_string().contains("is now 3"));
        }
    }
}
