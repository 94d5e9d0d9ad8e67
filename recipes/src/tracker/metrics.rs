//! The metrics of a run under the names that transformers and TRL give them.

use crate::train::{Evaluation, StepMetrics, Timings};

/// The values of a step.
pub(super) fn of_step(metrics: &StepMetrics) -> Vec<(String, f64)> {
    let own = [
        ("loss", metrics.loss),
        ("learning_rate", metrics.learning_rate),
        ("grad_norm", metrics.grad_norm),
        ("tokens", metrics.tokens as f64),
        ("tokens_per_second", metrics.tokens_per_second),
        ("step_ms", metrics.step_ms),
        ("skipped", metrics.skipped as f64),
    ];
    let bytes = [
        ("live_bytes", metrics.live_bytes),
        ("pool_bytes", metrics.pool_bytes),
        ("resident_bytes", metrics.resident_bytes),
        ("peak_bytes", metrics.peak_bytes),
    ];
    let bytes = bytes.into_iter().filter_map(|(name, bytes)| Some((name, bytes? as f64)));
    let times = metrics.timings.iter().flat_map(Timings::parts).map(|(name, ms)| (format!("train/{name}_ms"), ms));
    let mut all: Vec<(String, f64)> =
        own.into_iter().chain(bytes).map(|(name, value)| (format!("train/{name}"), value)).chain(times).collect();
    all.extend(metrics.objective.iter().map(|(name, value)| (format!("train/{name}"), *value)));
    all
}

/// The values of a validation.
pub(super) fn of_evaluation(evaluation: &Evaluation) -> Vec<(String, f64)> {
    let perplexity = evaluation.perplexity.map(|perplexity| ("eval/perplexity".to_owned(), perplexity));
    std::iter::once(("eval/loss".to_owned(), evaluation.loss)).chain(perplexity).collect()
}
