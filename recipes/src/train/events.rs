//! What a run tells its observers.

use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::StepMetrics;

/// Hears of a run while it goes on. A method that is not written does nothing.
pub trait Events: Send {
    /// A step was taken.
    fn step(&mut self, metrics: &StepMetrics, total: usize) {
        let _ = (metrics, total);
    }
    /// A validation ended.
    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool) {
        let _ = (step, evaluation, best);
    }
    /// A checkpoint was written.
    fn checkpoint(&mut self, path: &Path) {
        let _ = path;
    }
    /// Anything else worth a line.
    fn note(&mut self, line: &str) {
        let _ = line;
    }
}
