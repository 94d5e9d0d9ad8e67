//! Events of a run, for the report.

use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::StepMetrics;

/// Receives the events of a run.
pub trait Events: Send {
    /// A step was taken.
    fn step(&mut self, metrics: &StepMetrics, total: usize);
    /// A validation ended.
    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool);
    /// A checkpoint was written.
    fn checkpoint(&mut self, path: &Path);
    /// A note for the user.
    fn note(&mut self, line: &str);
}
