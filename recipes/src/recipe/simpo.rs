//! `train simpo`: simple preference optimization, from pairs of a chosen and a rejected answer, without a reference model.

use burnish_engine::Batch;
use burnish_engine::objective::{Judge, Judgement, Losses};

use super::logistic::smoothed;
use super::pairs::{self, Answer, PairLoss, Pairs};
use crate::config::TrainConfig;

/// `-(1 - ε) log σ(m) - ε log σ(-m)`, with `m = β d - γ` and the difference `d` of the answers' log-probabilities per token.
///
/// # Source
/// Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward". `CPOTrainer` of TRL 1.16 with
/// `loss_type = "simpo"` and `cpo_alpha = 0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simpo {
    /// Scale of the rewards, β.
    pub beta: f64,
    /// The margin by which the chosen answer should be better, γ.
    pub simpo_gamma: f64,
    /// Share of pairs assumed to be mislabelled, ε.
    pub label_smoothing: f64,
}

impl Simpo {
    /// The objective of a configuration.
    pub fn new(config: &TrainConfig) -> Self {
        Self { beta: config.beta, simpo_gamma: config.simpo_gamma, label_smoothing: config.label_smoothing }
    }

    /// The loss of a pair.
    pub(super) fn loss(&self, pair: [Answer; 2]) -> PairLoss {
        let [chosen, rejected] = pair.map(Answer::mean);
        let margin = self.beta * (chosen - rejected) - self.simpo_gamma;
        PairLoss::of_difference(smoothed(margin, self.label_smoothing), pair.map(|answer| self.beta / answer.length()))
    }
}

impl Judge for Simpo {
    fn has_reference(&self) -> bool {
        false
    }

    /// Pairs.
    fn counts(&self, batch: &Batch) -> Vec<usize> {
        vec![pairs::count(batch)]
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        let pairs = Pairs::new(batch, losses);
        Judgement {
            terms: vec![pairs.term(|pair| self.loss(pair))],
            metrics: pairs.metrics(|answer| self.beta * answer.mean(), Answer::mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::pairs::example::{batch, check_factors, losses, metric};

    #[test]
    fn losses_are_of_means_over_tokens() {
        let judge = Simpo { beta: 2.0, simpo_gamma: 0.5, label_smoothing: 0.0 };
        let found = judge.judge(&batch(), &losses());
        // Means of -1.5 and -0.5, and of -2.25 and -2.5.
        let loss = |margin: f64| (1.0 + (-margin).exp()).ln();
        assert!((found.terms[0].loss - loss(-2.5) - loss(0.0)).abs() < 1e-12, "{found:?}");
        assert!((metric(&found, "rewards/accuracies") - 0.5).abs() < 1e-12);
        assert!((metric(&found, "logps/chosen") + 1.875).abs() < 1e-12);
    }

    #[test]
    fn factors_are_the_derivatives() {
        for label_smoothing in [0.0, 0.2] {
            check_factors(&Simpo { beta: 2.0, simpo_gamma: 0.7, label_smoothing }, &losses());
        }
    }
}
