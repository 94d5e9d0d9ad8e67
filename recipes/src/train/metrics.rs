//! `metrics.jsonl`: one line an optimizer step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What is known of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    /// Mean over the predicted tokens.
    pub loss: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// All parameters together, before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, padding left out.
    pub tokens: usize,
    /// Of this step.
    pub tokens_per_second: f64,
    /// Wall time.
    pub step_ms: f64,
    /// Most memory that the process had, where the system tells.
    pub peak_bytes: Option<u64>,
    /// Steps that were not taken so far, because their loss was no number.
    pub skipped: usize,
}

/// The file, open to append.
pub struct MetricsFile {
    file: File,
}

const NAME: &str = "metrics.jsonl";

impl MetricsFile {
    /// Opens the file of a run folder. Lines of steps after `done` are dropped: a resumed run writes them again.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(folder: &Path, done: usize) -> Result<Self> {
        let path = folder.join(NAME);
        if path.exists() {
            let kept: Vec<String> = lines(&path)?
                .into_iter()
                .filter(|line| serde_json::from_str::<StepMetrics>(line).is_ok_and(|metrics| metrics.step <= done))
                .collect();
            let beside = folder.join(".metrics.jsonl.new");
            let mut text = kept.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            std::fs::write(&beside, text).with_context(|| beside.display().to_string())?;
            std::fs::rename(&beside, &path).with_context(|| path.display().to_string())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { file })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| format!("can't write {NAME}"))
    }

    /// Reads all steps of a run folder.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read(folder: &Path) -> Result<Vec<StepMetrics>> {
        Ok(lines(&folder.join(NAME))?.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

fn lines(path: &PathBuf) -> Result<Vec<String>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    // A line that was cut by a crash ends the file; it is no line of a step.
    Ok(BufReader::new(file).lines().map_while(Result::ok).collect())
}

/// Most memory that this process had, in bytes.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
