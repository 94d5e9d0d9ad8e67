//! What the loss of a step is made of.

use std::fmt;
use std::sync::Arc;

use crate::batch::Batch;

/// From the loss of each token to the loss of a step.
#[derive(Debug, Clone, Default)]
pub enum Objective {
    /// The mean over the step's tokens. Nothing waits for the device between forward and backward.
    #[default]
    Tokens,
    /// Something that depends on the losses: they are read back before the backward.
    Judged(Arc<dyn Judge>),
}

/// An objective that looks at the losses of a batch's tokens. It computes on the host, whatever the backend.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Whether it wants the losses of the reference model too: the one that the run began with.
    fn has_reference(&self) -> bool;

    /// How many things the loss of a batch is summed over; the loss of a step is the mean over all of its batches.
    fn count(&self, batch: &Batch) -> usize;

    /// Judges a batch by the losses of its predicted tokens, in the order of [`Batch::target_rows`], and by those that the reference
    /// has for them, or none.
    fn judge(&self, batch: &Batch, losses: &[f64], reference: &[f64]) -> Judgement;
}

/// What a batch is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Summed over [`Judge::count`] things.
    pub loss: f64,
    /// Derivative of that loss with respect to the loss of each token.
    pub factors: Vec<f64>,
    /// Sums over the same things, by name; their means are shown.
    pub metrics: Vec<(&'static str, f64)>,
}

impl Objective {
    /// How many things the loss of a batch is summed over.
    pub fn count(&self, batch: &Batch) -> usize {
        match self {
            Self::Tokens => batch.target_tokens,
            Self::Judged(judge) => judge.count(batch),
        }
    }
}

/// Sums over the same things, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricSums(Vec<(&'static str, f64)>);

impl MetricSums {
    /// Adds those of a batch.
    pub fn add(&mut self, metrics: &[(&'static str, f64)]) {
        for (name, value) in metrics {
            match self.0.iter_mut().find(|(own, _)| own == name) {
                Some((_, sum)) => *sum += value,
                None => self.0.push((name, *value)),
            }
        }
    }

    /// Their means over so many things.
    pub fn means(&self, count: usize) -> Vec<(&'static str, f64)> {
        self.0.iter().map(|(name, sum)| (*name, sum / count.max(1) as f64)).collect()
    }
}
