//! How the loss of a step is computed.

use std::fmt;
use std::sync::Arc;

use crate::batch::Batch;

/// How the loss of a step follows from the losses of its tokens.
#[derive(Debug, Clone, Default)]
pub enum Objective {
    /// The mean over the step's tokens. Forward and backward are queued without waiting for the device.
    #[default]
    Tokens,
    /// A function of the token losses, which are read back before the backward pass.
    Judged(Arc<dyn Judge>),
}

/// An objective computed on the host from the token losses of a batch.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Whether it also needs the losses of the reference model: the model at the start of the run.
    fn has_reference(&self) -> bool;

    /// The number of items that the loss of a batch is summed over. The loss of a step is the mean over the items of all its batches.
    fn count(&self, batch: &Batch) -> usize;

    /// Judges a batch by the losses of its predicted tokens, in the order of [`Batch::target_examples`], and by the reference model's losses
    /// of the same tokens, which are empty without a reference.
    fn judge(&self, batch: &Batch, losses: &[f64], reference: &[f64]) -> Judgement;
}

/// The loss of a batch, and its derivatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Summed over [`Judge::count`] items.
    pub loss: f64,
    /// Derivatives of `loss` with respect to the loss of each token.
    pub factors: Vec<f64>,
    /// Metrics by name, summed over the same items; their means are reported.
    pub metrics: Vec<(&'static str, f64)>,
}

impl Objective {
    /// The number of items that the loss of a batch is summed over.
    pub fn count(&self, batch: &Batch) -> usize {
        match self {
            Self::Tokens => batch.target_tokens,
            Self::Judged(judge) => judge.count(batch),
        }
    }
}

/// Sums of metrics over items, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricSums(Vec<(&'static str, f64)>);

impl MetricSums {
    /// Adds the sums of a batch.
    pub fn add(&mut self, metrics: &[(&'static str, f64)]) {
        for (name, value) in metrics {
            match self.0.iter_mut().find(|(own, _)| own == name) {
                Some((_, sum)) => *sum += value,
                None => self.0.push((name, *value)),
            }
        }
    }

    /// The means over `count` items.
    pub fn means(&self, count: usize) -> Vec<(&'static str, f64)> {
        self.0.iter().map(|(name, sum)| (*name, sum / count.max(1) as f64)).collect()
    }
}
