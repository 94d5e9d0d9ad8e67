//! Batches of pairs of answers: what the recipes that compare two answers have in common.
//!
//! Each pair is a prompt with two answers, [`crate::data::Row::Preference`]. The examples of a batch alternate: chosen, rejected, chosen,
//! rejected.

use burnish_engine::Batch;
use burnish_engine::objective::{Judgement, Losses, Metric, Term};

/// An answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answer {
    /// Its log-probability, summed over its tokens.
    pub log_probability: f64,
    /// The same by the reference model.
    pub reference: f64,
    /// The number of its tokens.
    pub tokens: usize,
}

impl Answer {
    /// `log π - log π₀`.
    pub fn log_ratio(self) -> f64 {
        self.log_probability - self.reference
    }

    /// The number of its tokens as a divisor.
    pub fn length(self) -> f64 {
        self.tokens.max(1) as f64
    }

    /// `log π` per token.
    pub fn mean(self) -> f64 {
        self.log_probability / self.length()
    }
}

/// The loss of a pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairLoss {
    /// The loss.
    pub loss: f64,
    /// Its derivatives with respect to the log-probability of the chosen answer and of the rejected one.
    pub slopes: [f64; 2],
}

impl PairLoss {
    /// A loss of the difference of two scores, whose derivatives with respect to the log-probabilities are given.
    pub fn of_difference((loss, slope): (f64, f64), scores: [f64; 2]) -> Self {
        Self { loss, slopes: [slope * scores[0], -slope * scores[1]] }
    }
}

/// The answers of a batch.
#[derive(Debug)]
pub(super) struct Pairs {
    answers: Vec<Answer>,
    /// The answer of each predicted token.
    answer_of: Vec<usize>,
}

impl Pairs {
    /// Sums the losses of the predicted tokens of a batch; a token's loss is its negative log-probability.
    pub fn new(batch: &Batch, losses: &Losses) -> Self {
        let answer_of = batch.target_examples();
        let mut answers = vec![Answer::default(); batch.examples()];
        for (token, (answer, loss)) in answer_of.iter().zip(&losses.policy).enumerate() {
            let answer = &mut answers[*answer];
            answer.log_probability -= loss;
            answer.reference -= losses.reference.get(token).unwrap_or(&0.0);
            answer.tokens += 1;
        }
        Self { answers, answer_of }
    }

    fn pairs(&self) -> impl Iterator<Item = [Answer; 2]> + '_ {
        self.answers.as_chunks::<2>().0.iter().copied()
    }

    /// A loss summed over the pairs.
    pub fn term(&self, loss_of: impl Fn([Answer; 2]) -> PairLoss) -> Term {
        let losses: Vec<PairLoss> = self.pairs().map(loss_of).collect();
        let slope = |answer: &usize| losses.get(answer / 2).map_or(0.0, |pair| -pair.slopes[answer % 2]);
        Term { loss: losses.iter().map(|pair| pair.loss).sum(), factors: self.answer_of.iter().map(slope).collect() }
    }

    /// The negative log-likelihood of the tokens of chosen answers, times `weight`.
    pub fn chosen_term(&self, weight: f64) -> Term {
        let factor = |answer: &usize| if is_chosen(*answer) { weight } else { 0.0 };
        Term { loss: weight * self.chosen_loss(), factors: self.answer_of.iter().map(factor).collect() }
    }

    /// Judges the pairs by their losses, and by `weight` times the loss of the chosen answers if that is above 0. Rewards and
    /// log-probabilities are for the metrics.
    pub fn judge(
        &self,
        loss_of: impl Fn([Answer; 2]) -> PairLoss,
        reward: impl Fn(Answer) -> f64,
        log_probability: impl Fn(Answer) -> f64,
        weight: f64,
    ) -> Judgement {
        let (mut terms, mut metrics) = (vec![self.term(loss_of)], self.metrics(reward, log_probability));
        if weight > 0.0 {
            terms.push(self.chosen_term(weight));
            metrics.push(self.chosen_metric());
        }
        Judgement { terms, metrics }
    }

    fn chosen_loss(&self) -> f64 {
        -self.answers.iter().step_by(2).map(|chosen| chosen.log_probability).sum::<f64>()
    }

    /// TRL's `nll_loss`.
    pub fn chosen_metric(&self) -> Metric {
        let count = self.answers.iter().step_by(2).map(|chosen| chosen.tokens).sum();
        Metric { name: "nll_loss", sum: self.chosen_loss(), count }
    }

    /// A metric of each pair.
    pub fn metric(&self, name: &'static str, value: impl Fn([Answer; 2]) -> f64) -> Metric {
        Metric { name, sum: self.pairs().map(value).sum(), count: self.answers.len() / 2 }
    }

    /// TRL's metrics of rewards and log-probabilities, by the functions that compute these of an answer.
    pub fn metrics(&self, reward: impl Fn(Answer) -> f64, log_probability: impl Fn(Answer) -> f64) -> Vec<Metric> {
        vec![
            self.metric("rewards/chosen", |pair| reward(pair[0])),
            self.metric("rewards/rejected", |pair| reward(pair[1])),
            self.metric("rewards/accuracies", |pair| f64::from(u8::from(reward(pair[0]) > reward(pair[1])))),
            self.metric("rewards/margins", |pair| reward(pair[0]) - reward(pair[1])),
            self.metric("logps/chosen", |pair| log_probability(pair[0])),
            self.metric("logps/rejected", |pair| log_probability(pair[1])),
        ]
    }
}

/// Whether an example is the chosen answer of its pair.
pub(super) fn is_chosen(example: usize) -> bool {
    example.is_multiple_of(2)
}

/// The number of pairs of a batch.
pub(super) fn count(batch: &Batch) -> usize {
    batch.examples() / 2
}

/// The number of predicted tokens in chosen answers of a batch.
pub(super) fn chosen_tokens(batch: &Batch) -> usize {
    batch.target_examples().into_iter().filter(|example| is_chosen(*example)).count()
}

/// Pairs, and checks of derivatives, for the tests of recipes.
#[cfg(test)]
pub(super) mod example {
    use burnish_engine::objective::{Judge, Judgement};

    use super::*;
    use crate::data::IGNORE;

    /// Two pairs of answers of two and one tokens, after a prompt of two tokens.
    pub fn batch() -> Batch {
        let line = |tokens: usize| (0..4).map(move |index| if (2..2 + tokens).contains(&index) { 7 } else { IGNORE });
        Batch {
            input_ids: (0..16).map(|index| if index % 4 < 2 { index / 8 } else { 7 }).collect(),
            labels: [2, 1, 2, 1].into_iter().flat_map(line).collect(),
            position_ids: (0..16).map(|index| index % 4).collect(),
            segment_ids: (0..16).map(|index| if index % 8 == 7 { 0 } else { index / 4 + 1 }).collect(),
            rows: 4,
            length: 4,
            tokens: 14,
            target_tokens: 6,
            desirable: vec![true, false, true, false],
        }
    }

    /// The losses of its predicted tokens.
    pub fn losses() -> Losses {
        Losses {
            policy: vec![1.0, 2.0, 0.5, 3.0, 1.5, 2.5],
            reference: vec![1.5, 2.5, 0.75, 2.0, 1.0, 0.5],
            ..Losses::default()
        }
    }

    /// A metric's mean.
    pub fn metric(judgement: &Judgement, name: &str) -> f64 {
        let metric = judgement.metrics.iter().find(|metric| metric.name == name).unwrap();
        metric.sum / metric.count as f64
    }

    /// Compares the factors of every term with central differences.
    pub fn check_factors(judge: &dyn Judge, losses: &Losses) {
        let batch = batch();
        let terms = judge.judge(&batch, losses).terms;
        assert_eq!(terms.len(), judge.counts(&batch).len());
        for (index, term) in terms.iter().enumerate() {
            assert_eq!(term.factors.len(), losses.policy.len());
            for token in 0..losses.policy.len() {
                let at = |step: f64| {
                    let mut losses = losses.clone();
                    losses.policy[token] += step;
                    judge.judge(&batch, &losses).terms[index].loss
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((term.factors[token] - difference).abs() < 1e-7, "{judge:?}, term {index}, token {token}");
            }
        }
    }
}
