//! `metrics.jsonl`: one line per optimizer step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::step_lines::{StepFile, StepLine, number_or_nan};

use super::timings::Timings;

/// The metrics of an optimizer step: one line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: usize,
    /// Mean over the predicted tokens, or over the items that the objective counts.
    #[serde(deserialize_with = "number_or_nan")]
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

/// The file, opened for appending.
pub type MetricsFile = StepFile<StepMetrics>;

impl StepLine for StepMetrics {
    const FILE: &'static str = "metrics.jsonl";

    fn step(&self) -> usize {
        self.step
    }
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
