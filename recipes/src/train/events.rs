//! Events of a run, for the report.

use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::StepMetrics;

/// Receives the events of a run. By default it ignores them.
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
    /// A note for the user.
    fn note(&mut self, line: &str) {
        let _ = line;
    }
    /// Something that makes the run slower or worse than it could be; shown once.
    fn warning(&mut self, line: &str) {
        self.note(line);
    }
    /// The run ended: all steps were taken, or it stopped early by itself; or it was interrupted or failed.
    fn end(&mut self, finished: bool) {
        let _ = finished;
    }
}
