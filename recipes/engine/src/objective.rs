//! How the loss of a step is computed.

use std::borrow::Cow;
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
///
/// Its loss is a sum of terms. Each is a mean over items of its own, such as pairs or tokens, of all batches of a step.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Whether it also needs the losses of the reference model: the model at the start of the run.
    fn has_reference(&self) -> bool;

    /// The batch with a label for each token whose loss is needed; by default these are the tokens that are trained on.
    fn labelled<'a>(&self, batch: &'a Batch) -> Cow<'a, Batch> {
        Cow::Borrowed(batch)
    }

    /// Whether [`Judge::beside`] has rows for any batch.
    fn has_rows_beside(&self) -> bool {
        false
    }

    /// Other rows whose losses are needed, but not their gradients; by default there are none.
    fn beside(&self, _batch: &Batch) -> Option<Batch> {
        None
    }

    /// The number of items in each term of the loss of a batch.
    fn counts(&self, batch: &Batch) -> Vec<usize>;

    /// Judges a batch by the losses of its tokens.
    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement;
}

/// The losses of predicted tokens, in the order of [`Batch::target_examples`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Losses {
    /// Those of [`Judge::labelled`] by the model.
    pub policy: Vec<f64>,
    /// The same by the reference model; empty without one.
    pub reference: Vec<f64>,
    /// Those of [`Judge::beside`] by the model, without dropout; empty without such rows.
    pub beside: Vec<f64>,
    /// The same by the reference model; empty without one.
    pub beside_reference: Vec<f64>,
}

/// The loss of a batch, and its derivatives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// The terms of the loss, in the order of [`Judge::counts`].
    pub terms: Vec<Term>,
    /// Further metrics.
    pub metrics: Vec<Metric>,
}

/// A term of the loss of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Term {
    /// Summed over the term's items.
    pub loss: f64,
    /// Derivatives of `loss` with respect to the loss of each token.
    pub factors: Vec<f64>,
}

/// A metric of a batch; the mean over its items is reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Summed over its items.
    pub sum: f64,
    /// The number of items.
    pub count: usize,
}

impl Objective {
    /// The number of items in each term of the loss of a batch.
    pub fn counts(&self, batch: &Batch) -> Vec<usize> {
        match self {
            Self::Tokens => vec![batch.target_tokens],
            Self::Judged(judge) => judge.counts(batch),
        }
    }

    /// Whether there are rows beside a batch, whose shape is not that of the batch.
    pub fn has_rows_beside(&self) -> bool {
        match self {
            Self::Tokens => false,
            Self::Judged(judge) => judge.has_rows_beside(),
        }
    }
}

impl Judgement {
    /// The part of a step's loss that comes from this batch, and its derivatives, if the terms of the whole step have `counts` items.
    pub fn of_step(&self, counts: &[usize]) -> (f64, Vec<f64>) {
        let mut factors = vec![0.0; self.terms.iter().map(|term| term.factors.len()).max().unwrap_or(0)];
        let mut loss = 0.0;
        for (term, count) in self.terms.iter().zip(counts) {
            let share = 1.0 / (*count).max(1) as f64;
            loss += term.loss * share;
            factors.iter_mut().zip(&term.factors).for_each(|(sum, factor)| *sum += factor * share);
        }
        (loss, factors)
    }
}

/// The terms of a loss, each summed over its items.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossSums(Vec<(f64, usize)>);

impl LossSums {
    /// The loss of so many tokens.
    pub fn of_tokens(sum: f64, tokens: usize) -> Self {
        Self(vec![(sum, tokens)])
    }

    /// The loss of a batch whose terms have `counts` items.
    pub fn of(judgement: &Judgement, counts: &[usize]) -> Self {
        Self(judgement.terms.iter().zip(counts).map(|(term, count)| (term.loss, *count)).collect())
    }

    /// Adds the sums of a batch.
    pub fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), (0.0, 0));
        for ((sum, count), (more, items)) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
            *count += items;
        }
    }

    /// The loss: the sum of the terms' means. NaN without any item.
    pub fn mean(&self) -> f64 {
        let means = self.0.iter().filter(|(_, count)| *count > 0).map(|(sum, count)| sum / *count as f64);
        means.reduce(|sum, mean| sum + mean).unwrap_or(f64::NAN)
    }
}

/// Sums of metrics over items, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricSums(Vec<Metric>);

impl MetricSums {
    /// Adds the sums of a batch.
    pub fn add(&mut self, metrics: &[Metric]) {
        for metric in metrics {
            match self.0.iter_mut().find(|own| own.name == metric.name) {
                Some(own) => {
                    own.sum += metric.sum;
                    own.count += metric.count;
                }
                None => self.0.push(*metric),
            }
        }
    }

    /// The means over their items.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        self.0.iter().map(|metric| (metric.name, metric.sum / metric.count.max(1) as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_metrics_are_means_over_their_own_items() {
        let judgement = |loss: [f64; 2], factors: [[f64; 2]; 2]| {
            let term = |index: usize| Term { loss: loss[index], factors: factors[index].to_vec() };
            Judgement { terms: vec![term(0), term(1)], metrics: Vec::new() }
        };
        let one = judgement([2.0, 9.0], [[1.0, 0.0], [3.0, 6.0]]);
        assert_eq!(one.of_step(&[4, 3]), (3.5, vec![1.25, 2.0]));
        // Two batches of 1 and 3 pairs with 2 and 1 tokens.
        let mut sums = LossSums::default();
        sums.add(&LossSums::of(&one, &[1, 2]));
        sums.add(&LossSums::of(&judgement([6.0, 3.0], [[0.0; 2]; 2]), &[3, 1]));
        assert!((sums.mean() - (8.0 / 4.0 + 12.0 / 3.0)).abs() < 1e-12, "{sums:?}");
        assert!(LossSums::default().mean().is_nan() && LossSums::of_tokens(0.0, 0).mean().is_nan());

        let mut metrics = MetricSums::default();
        metrics.add(&[Metric { name: "a", sum: 1.0, count: 1 }, Metric { name: "b", sum: 4.0, count: 2 }]);
        metrics.add(&[Metric { name: "a", sum: 5.0, count: 2 }]);
        assert_eq!(metrics.means(), [("a", 2.0), ("b", 2.0)]);
    }
}
