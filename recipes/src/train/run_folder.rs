//! The folder of a run: who may write to it, and where to go on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::checkpoint::Checkpoint;
use crate::config::TrainConfig;
use crate::hint::with_hint;

/// What `output_dir` holds.
pub struct Found {
    /// Where to go on.
    pub checkpoint: Option<Checkpoint>,
    /// Something has to be deleted first.
    occupied: bool,
    notes: Vec<String>,
}

/// Finds the checkpoint to resume from; nothing is written.
///
/// # Errors
/// When the folder has a run and neither `resume` nor `overwrite` is set, or a named checkpoint is damaged.
pub fn find(config: &TrainConfig) -> Result<Found> {
    let run = PathBuf::from(&config.output_dir);
    let mut notes = Vec::new();
    let occupied = fs::read_dir(&run).is_ok_and(|mut entries| entries.next().is_some());
    let checkpoint = match config.resume.as_str() {
        "none" => {
            if occupied && !config.overwrite {
                let message = format!("{} already has a run", run.display());
                return Err(with_hint(
                    message,
                    "--resume auto continues it, --overwrite deletes it, --output-dir takes another folder",
                ));
            }
            None
        }
        "auto" => {
            let (found, refused) = Checkpoint::newest(&run);
            notes.extend(refused.iter().map(|reason| format!("refused a checkpoint: {reason}")));
            if found.is_none() {
                notes.push("no whole checkpoint to resume from; beginning at step 1".to_owned());
            }
            found
        }
        path => Some(Checkpoint::open(Path::new(path))?),
    };
    if let Some(checkpoint) = &checkpoint {
        notes.push(format!("resuming from {} (step {})", checkpoint.path.display(), checkpoint.state.step));
        notes.extend(changed_keys(config, &checkpoint.path));
    }
    Ok(Found { checkpoint, occupied: occupied && config.resume == "none", notes })
}

/// Makes `output_dir` ready for the run; lines for the user come back.
///
/// # Errors
/// When the disk refuses.
pub fn prepare(config: &TrainConfig, found: &Found) -> Result<Vec<String>> {
    let run = PathBuf::from(&config.output_dir);
    if found.occupied {
        clear(&run)?;
    }
    fs::create_dir_all(&run).with_context(|| run.display().to_string())?;
    let path = run.join("config.toml");
    fs::write(&path, config.to_toml()).with_context(|| path.display().to_string())?;
    Ok(found.notes.clone())
}

/// Deletes what a run leaves, and only that: a folder with other things keeps them.
fn clear(run: &Path) -> Result<()> {
    for entry in fs::read_dir(run).with_context(|| run.display().to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.trim_start_matches('.');
        let ours =
            ["checkpoint-", "adapter", "model", "metrics.jsonl", "config.toml"].iter().any(|own| plain.starts_with(own));
        if ours {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Keys that changed since the checkpoint and make the rest of the run another one.
fn changed_keys(config: &TrainConfig, checkpoint: &Path) -> Vec<String> {
    let read = |text: &str| toml::from_str::<toml::Table>(text).unwrap_or_default();
    let Ok(old) = fs::read_to_string(checkpoint.join("config.toml")) else { return Vec::new() };
    let (old, new) = (read(&old), read(&config.to_toml()));
    // These decide where and when something is written, not what is learned.
    let harmless = ["resume", "overwrite", "output_dir", "save_every", "save_total_limit", "steps_per_report"];
    new.iter()
        .filter(|(key, value)| !harmless.contains(&key.as_str()) && old.get(*key) != Some(value))
        .map(|(key, value)| match old.get(key) {
            Some(before) => format!("`{key}` was {before} and is now {value}: the run will differ from an unbroken one"),
            None => format!("`{key}` is now {value}: the run will differ from an unbroken one"),
        })
        .collect()
}
