//! Reads the folder of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burnish_engine::with_hint;
use serde::de::DeserializeOwned;
use toml::Table;

use crate::train::{RunFacts, SAMPLES, Sample, StepLine, StepMetrics, ValidationLine};

/// What a run folder tells of its run.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// Its name on the page: the folder as the user gave it.
    pub name: String,
    /// The effective configuration.
    pub settings: Table,
    /// The steps. Of several lines about a step, the last one counts.
    pub steps: Vec<StepMetrics>,
    /// The validations, likewise.
    pub validations: Vec<ValidationLine>,
    /// Answers before and after training.
    pub samples: Vec<Sample>,
    /// What the run found when it started.
    pub facts: Option<RunFacts>,
    /// The folders of its result: `adapter`, `model`.
    pub results: Vec<String>,
    /// Steps of its checkpoints.
    pub checkpoints: Vec<usize>,
    /// What could not be read.
    pub notes: Vec<String>,
}

impl RunRecord {
    /// Reads a run folder.
    ///
    /// # Errors
    /// When it is no run folder, or has no step.
    pub fn read(folder: &Path) -> Result<Self> {
        let name = folder.display().to_string();
        if !folder.is_dir() {
            return Err(with_hint(format!("{name} is not a folder"), "pass the output_dir of a run"));
        }
        let mut notes = Vec::new();
        let checkpoints = checkpoints(folder);
        let settings = settings(folder, &checkpoints, &mut notes)?;
        let steps = by_step::<StepMetrics>(folder, &mut notes)?;
        if steps.is_empty() {
            return Err(with_hint(
                format!("{name} has no steps: {} is missing, or has no line that can be read", StepMetrics::FILE),
                "a run has them from its first step on; a checkpoint or an adapter lies in the folder of its run",
            ));
        }
        let validations = by_step::<ValidationLine>(folder, &mut notes)?;
        let samples = lines::<Sample>(&folder.join(SAMPLES), &mut notes)?;
        let results = ["adapter", "model"].into_iter().filter(|name| folder.join(name).is_dir()).map(str::to_owned);
        Ok(Self {
            name,
            settings,
            steps,
            validations,
            samples,
            facts: RunFacts::read(folder),
            results: results.collect(),
            checkpoints: checkpoints.into_iter().map(|(step, _)| step).collect(),
            notes,
        })
    }

    /// A setting as text, without the quotes of a string.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(shown)
    }

    /// The step of the last line.
    pub fn last_step(&self) -> usize {
        self.steps.last().map_or(0, |step| step.step)
    }
}

/// A value as text, without the quotes of a string.
pub fn shown(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The checkpoints of a run, by step.
fn checkpoints(folder: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let step = |path: PathBuf| {
        let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        Some((step, path))
    };
    let mut found: Vec<(usize, PathBuf)> = entries.filter_map(|entry| step(entry.path())).collect();
    found.sort_unstable();
    found
}

/// The configuration of the run, or of its newest checkpoint if that is missing or damaged.
fn settings(folder: &Path, checkpoints: &[(usize, PathBuf)], notes: &mut Vec<String>) -> Result<Table> {
    let own = folder.join("config.toml");
    let read = |path: &Path| -> Option<Table> {
        let table: Table = toml::from_str(&fs::read_to_string(path).ok()?).ok()?;
        table.contains_key("output_dir").then_some(table)
    };
    if let Some(table) = read(&own) {
        return Ok(table);
    }
    for (step, path) in checkpoints.iter().rev() {
        if let Some(table) = read(&path.join("config.toml")) {
            notes
                .push(format!("config.toml is missing or damaged; the settings are those of the checkpoint of step {step}"));
            return Ok(table);
        }
    }
    let hint = if folder.join("adapter_config.json").exists() {
        "this is an adapter; pass the folder of the run that it lies in"
    } else {
        "pass the output_dir of a run: a folder with config.toml and metrics.jsonl"
    };
    Err(with_hint(format!("{} is not the folder of a run", folder.display()), hint))
}

/// The lines of a file, of each step the last one.
fn by_step<L: StepLine>(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<L>> {
    let all = lines::<L>(&folder.join(L::FILE), notes)?;
    let count = all.len();
    let kept: BTreeMap<usize, L> = all.into_iter().map(|line| (line.step(), line)).collect();
    if kept.len() < count {
        notes.push(format!("{}: steps with several lines, of which the last is shown: {}", L::FILE, count - kept.len()));
    }
    Ok(kept.into_values().collect())
}

/// The lines of a file; none if there is no such file.
fn lines<L: DeserializeOwned>(path: &Path, notes: &mut Vec<String>) -> Result<Vec<L>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let read: Vec<L> = all.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if read.len() < all.len() {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        notes.push(format!("{file}: {} of {} lines can't be read, as after a crash", all.len() - read.len(), all.len()));
    }
    Ok(read)
}
