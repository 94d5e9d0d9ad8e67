//! `metrics.jsonl`: one line per optimizer step.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burnish_models::atomic;
use serde::{Deserialize, Deserializer, Serialize};

use super::timings::Timings;

/// The metrics of an optimizer step: one line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: usize,
    /// Mean over the predicted tokens, or over the items that the objective counts.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Gradient norm over all parameters, before clipping and without the loss scale; not finite if the step was skipped.
    #[serde(deserialize_with = "number_or_nan")]
    pub grad_norm: f64,
    /// Tokens of the step, without padding.
    pub tokens: usize,
    /// `tokens` divided by the step's wall time.
    pub tokens_per_second: f64,
    /// Wall time of the step in milliseconds.
    pub step_ms: f64,
    /// Device memory held by tensors after the step, if the backend reports it.
    #[serde(default)]
    pub live_bytes: Option<u64>,
    /// Device memory allocated by the backend, including unused parts of its pools.
    #[serde(default)]
    pub pool_bytes: Option<u64>,
    /// What those may use: the memory of the device, or on the CPU of the machine, where known.
    #[serde(default)]
    pub budget_bytes: Option<u64>,
    /// Resident host memory of the process after the step, if the system reports it.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// Peak host memory of the process, if the system reports it.
    pub peak_bytes: Option<u64>,
    /// Steps skipped so far, this one included, because their gradient overflowed f16.
    pub skipped: usize,
    /// What the parts of the step took, if the run measures them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Further metrics of the objective, under TRL's names.
    #[serde(flatten)]
    pub objective: BTreeMap<String, f64>,
}

/// JSON has neither NaN nor infinity, so `serde_json` writes them as null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The file, opened for appending.
pub struct MetricsFile {
    file: File,
}

const NAME: &str = "metrics.jsonl";

impl MetricsFile {
    /// Opens the file of a run folder. Lines after step `done` are removed: a resumed run writes them again.
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
            let mut text = kept.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            atomic::write_bytes(&path, text.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { file })
    }

    /// Appends a step.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| format!("can't write {NAME}"))
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("can't write {NAME}"))
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
    // A crash may leave an incomplete last line, which doesn't parse as a step.
    Ok(BufReader::new(file).lines().map_while(Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_is_kept_when_a_run_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = |step, grad_norm| StepMetrics {
            step,
            loss: 2.0,
            learning_rate: 1e-3,
            grad_norm,
            tokens: 8,
            tokens_per_second: 1.0,
            step_ms: 1.0,
            live_bytes: Some(3),
            pool_bytes: None,
            budget_bytes: None,
            resident_bytes: None,
            peak_bytes: None,
            skipped: 1,
            timings: None,
            objective: BTreeMap::new(),
        };
        let mut file = MetricsFile::open(folder.path(), 0).unwrap();
        for (step, grad_norm) in [(1, f64::INFINITY), (2, 0.5), (3, 0.25)] {
            file.write(&metrics(step, grad_norm)).unwrap();
        }
        MetricsFile::open(folder.path(), 2).unwrap();
        let kept = MetricsFile::read(folder.path()).unwrap();
        assert_eq!(kept.len(), 2);
        assert_eq!((kept[0].live_bytes, kept[0].pool_bytes), (Some(3), None));
        assert!(kept[0].grad_norm.is_nan() && (kept[1].grad_norm - 0.5).abs() < 1e-12);
    }
}
