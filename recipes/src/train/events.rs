//! What a run tells its observers.

use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::StepMetrics;

/// Hears of a run while it goes on.
pub trait Events: Send {
    /// A step was taken.
    fn step(&mut self, metrics: &StepMetrics, total: usize);
    /// A validation ended.
    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool);
    /// A checkpoint was written.
    fn checkpoint(&mut self, path: &Path);
    /// Anything else worth a line.
    fn note(&mut self, line: &str);
}
