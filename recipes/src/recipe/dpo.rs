//! `train dpo`: direct preference optimization, from pairs of a chosen and a rejected answer.
//!
//! Each example is a prompt with two answers, [`crate::data::Row::Preference`]. The examples of a batch alternate: chosen, rejected, chosen,
//! rejected. The reference is the model at the start of the run: the base model, with the initial adapter if there is one.

use burnish_engine::Batch;
use burnish_engine::objective::{Judge, Judgement};

/// `L = -log σ(m)`, with the margin `m = β (log π(chosen) - log π₀(chosen) - log π(rejected) + log π₀(rejected))`. With smoothing
/// `L = (-(1 - ε) log σ(m) + ε log σ(-m)) / (1 - 2ε)`, which assumes that a share ε of the pairs is mislabelled.
///
/// # Source
/// Rafailov et al. 2023, "Direct Preference Optimization"; Chowdhury et al. 2024, "Provably Robust DPO". `DPOTrainer` of TRL 1.16:
/// `loss_type` is `sigmoid`, or `robust` with `label_smoothing`; the metrics have its names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// Strength of the penalty for leaving the reference model, β.
    pub beta: f64,
    /// Share of pairs assumed to be mislabelled, ε, below 0.5.
    pub label_smoothing: f64,
}

impl Judge for Dpo {
    fn has_reference(&self) -> bool {
        true
    }

    /// The number of pairs.
    fn count(&self, batch: &Batch) -> usize {
        batch.examples() / 2
    }

    fn judge(&self, batch: &Batch, losses: &[f64], reference: &[f64]) -> Judgement {
        let examples = batch.target_examples();
        // A token's loss is its negative log-probability.
        let mut answers = vec![Answer::default(); batch.examples()];
        for ((example, loss), reference) in examples.iter().zip(losses).zip(reference) {
            answers[*example].log_probability -= loss;
            answers[*example].reference -= reference;
        }
        let Self { beta, label_smoothing: smoothing } = *self;
        let whole = 1.0 - 2.0 * smoothing;
        let mut slopes = vec![0.0; answers.len()];
        let mut judgement = Judgement { loss: 0.0, factors: Vec::with_capacity(losses.len()), metrics: Vec::new() };
        let mut sums = [0.0; 6];
        for (pair, answers) in answers.chunks_exact(2).enumerate() {
            let [chosen, rejected] = [answers[0].reward(beta), answers[1].reward(beta)];
            let margin = chosen - rejected;
            judgement.loss -= ((1.0 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)) / whole;
            // dL/dm. The margin's derivative by a token's loss is -β in the chosen answer and β in the rejected one.
            let slope = -((1.0 - smoothing) * sigmoid(-margin) + smoothing * sigmoid(margin)) / whole;
            slopes[2 * pair] = -beta * slope;
            slopes[2 * pair + 1] = beta * slope;
            let is_right = f64::from(u8::from(margin > 0.0));
            let of_pair = [chosen, rejected, is_right, margin, answers[0].log_probability, answers[1].log_probability];
            sums.iter_mut().zip(of_pair).for_each(|(sum, value)| *sum += value);
        }
        judgement.factors.extend(examples.iter().map(|example| slopes[*example]));
        judgement.metrics = METRICS.into_iter().zip(sums).collect();
        judgement
    }
}

/// TRL's names.
const METRICS: [&str; 6] =
    ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"];

/// Log-probabilities of an answer, summed over its tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    log_probability: f64,
    reference: f64,
}

impl Answer {
    fn reward(self, beta: f64) -> f64 {
        beta * (self.log_probability - self.reference)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log σ(x)`, without an overflow on either side.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IGNORE;

    /// Two pairs of answers of two and one tokens, after a prompt of one token.
    fn batch() -> Batch {
        let line = |tokens: usize| (0..4).map(move |index| if (1..=tokens).contains(&index) { 7 } else { IGNORE });
        Batch {
            input_ids: vec![7; 16],
            labels: [2, 1, 2, 1].into_iter().flat_map(line).collect(),
            position_ids: (0..16).map(|index| index % 4).collect(),
            segment_ids: (0..16).map(|index| index / 4 + 1).collect(),
            rows: 4,
            length: 4,
            tokens: 16,
            target_tokens: 6,
        }
    }

    const LOSSES: [f64; 6] = [1.0, 2.0, 0.5, 3.0, 1.5, 2.5];
    const REFERENCE: [f64; 6] = [1.5, 2.5, 0.75, 2.0, 1.0, 0.5];

    #[test]
    fn losses_and_rewards_follow_the_formula() {
        let judge = Dpo { beta: 0.5, label_smoothing: 0.1 };
        let found = judge.judge(&batch(), &LOSSES, &REFERENCE);
        // First pair: 0.5 · 1.0 and 0.5 · 0.25; second: 0.5 · -1.5 and 0.5 · -2.0.
        let margins = [0.5 - 0.125, -0.75 + 1.0];
        let loss = |margin: f64| (-0.9 * sigmoid(margin).ln() + 0.1 * sigmoid(-margin).ln()) / 0.8;
        assert!((found.loss - margins.iter().map(|margin| loss(*margin)).sum::<f64>()).abs() < 1e-12, "{found:?}");
        let metric = |name: &str| found.metrics.iter().find(|(own, _)| *own == name).unwrap().1;
        assert!((metric("rewards/chosen") - (0.5 - 0.75)).abs() < 1e-12);
        assert!((metric("rewards/margins") - margins.iter().sum::<f64>()).abs() < 1e-12);
        assert!((metric("rewards/accuracies") - 2.0).abs() < 1e-12 && (metric("logps/chosen") + 7.5).abs() < 1e-12);
        assert_eq!(judge.count(&batch()), 2);
    }

    #[test]
    fn factors_are_the_derivatives() {
        for judge in [Dpo { beta: 0.1, label_smoothing: 0.0 }, Dpo { beta: 2.0, label_smoothing: 0.2 }] {
            let factors = judge.judge(&batch(), &LOSSES, &REFERENCE).factors;
            for token in 0..LOSSES.len() {
                let at = |step: f64| {
                    let mut losses = LOSSES;
                    losses[token] += step;
                    judge.judge(&batch(), &losses, &REFERENCE).loss
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((factors[token] - difference).abs() < 1e-8, "{judge:?}, token {token}");
            }
        }
    }

    #[test]
    fn large_margins_do_not_overflow() {
        assert!((log_sigmoid(-1000.0) + 1000.0).abs() < 1e-9 && log_sigmoid(1000.0).abs() < 1e-9);
        assert!((log_sigmoid(0.3) - sigmoid(0.3).ln()).abs() < 1e-12);
    }
}
