//! `train cpo`: contrastive preference optimization, from pairs of a chosen and a rejected answer, without a reference model.

use burnish_engine::Batch;
use burnish_engine::objective::{Judge, Judgement, Losses};

use super::logistic::smoothed;
use super::pairs::{self, Answer, PairLoss, Pairs};
use super::simpo::Simpo;
use crate::config::{LossType, TrainConfig};

/// A loss of the difference `d` of two scores, by default the log-probabilities of the answers and `-(1 - ε) log σ(βd) - ε log σ(-βd)`,
/// plus the negative log-likelihood of the chosen answer, a mean over tokens, times `cpo_alpha`.
///
/// # Source
/// Xu et al. 2024, "Contrastive Preference Optimization". `CPOTrainer` of TRL 1.16, whose metrics it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpo {
    /// Scale of the scores, β.
    pub beta: f64,
    /// The loss.
    pub loss: Loss,
    /// Weight of the negative log-likelihood of the chosen answers; 0 leaves it out.
    pub cpo_alpha: f64,
}

/// The loss of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// `-(1 - ε) log σ(βd) - ε log σ(-βd)`.
    Sigmoid {
        /// Share of pairs assumed to be mislabelled, ε.
        label_smoothing: f64,
    },
    /// `max(0, 1 - βd)`.
    Hinge,
    /// `(d - 1 / 2β)²`, where scores are log-probabilities per token.
    Ipo,
    /// That of SimPO, which together with `cpo_alpha` is CPO-SimPO.
    Simpo(Simpo),
}

/// The losses that `loss_type` may name.
pub(super) const LOSSES: &[LossType] = &[LossType::Sigmoid, LossType::Hinge, LossType::Ipo, LossType::Simpo];

impl Cpo {
    /// The objective of a configuration.
    pub fn new(config: &TrainConfig) -> Self {
        let loss = match config.loss_type {
            LossType::Hinge => Loss::Hinge,
            LossType::Ipo => Loss::Ipo,
            LossType::Simpo => Loss::Simpo(Simpo::new(config)),
            _ => Loss::Sigmoid { label_smoothing: config.label_smoothing },
        };
        Self { beta: config.beta, loss, cpo_alpha: config.cpo_alpha }
    }

    fn score(&self, answer: Answer) -> f64 {
        match self.loss {
            Loss::Ipo | Loss::Simpo(_) => answer.mean(),
            Loss::Sigmoid { .. } | Loss::Hinge => answer.log_probability,
        }
    }

    fn loss(&self, pair: [Answer; 2]) -> PairLoss {
        let beta = self.beta;
        let difference = self.score(pair[0]) - self.score(pair[1]);
        match self.loss {
            Loss::Sigmoid { label_smoothing } => {
                PairLoss::of_difference(smoothed(beta * difference, label_smoothing), [beta; 2])
            }
            Loss::Hinge => {
                let margin = beta * difference;
                PairLoss::of_difference(((1.0 - margin).max(0.0), if margin < 1.0 { -1.0 } else { 0.0 }), [beta; 2])
            }
            Loss::Ipo => {
                let excess = difference - 0.5 / beta;
                PairLoss::of_difference((excess * excess, 2.0 * excess), pair.map(|answer| 1.0 / answer.length()))
            }
            Loss::Simpo(simpo) => simpo.loss(pair),
        }
    }
}

impl Judge for Cpo {
    fn has_reference(&self) -> bool {
        false
    }

    /// Pairs, and tokens of chosen answers if these are learned too.
    fn counts(&self, batch: &Batch) -> Vec<usize> {
        let tokens = (self.cpo_alpha > 0.0).then(|| pairs::chosen_tokens(batch));
        std::iter::once(pairs::count(batch)).chain(tokens).collect()
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        Pairs::new(batch, losses).judge(
            |pair| self.loss(pair),
            |answer| self.beta * self.score(answer),
            |answer| self.score(answer),
            self.cpo_alpha,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::pairs::example::{batch, check_factors, losses, metric};

    #[test]
    fn losses_follow_the_formula() {
        let judge = Cpo { beta: 0.5, loss: Loss::Sigmoid { label_smoothing: 0.0 }, cpo_alpha: 2.0 };
        let found = judge.judge(&batch(), &losses());
        // Log-probabilities of -3 and -0.5, and of -4.5 and -2.5.
        let loss = |margin: f64| (1.0 + (-margin).exp()).ln();
        assert!((found.terms[0].loss - loss(-1.25) - loss(-1.0)).abs() < 1e-12, "{found:?}");
        assert!((found.terms[1].loss - 2.0 * 7.5).abs() < 1e-12 && (metric(&found, "nll_loss") - 7.5 / 4.0).abs() < 1e-12);
        assert!((metric(&found, "rewards/margins") + 1.125).abs() < 1e-12);
        assert_eq!(judge.counts(&batch()), [2, 4]);
        assert_eq!(Cpo { cpo_alpha: 0.0, ..judge }.counts(&batch()), [2]);
    }

    #[test]
    fn factors_are_the_derivatives() {
        for loss_type in LOSSES {
            for (beta, label_smoothing, cpo_alpha) in [(0.1, 0.0, 0.0), (1.7, 0.2, 0.5)] {
                let config =
                    TrainConfig { beta, label_smoothing, cpo_alpha, loss_type: *loss_type, ..TrainConfig::default() };
                check_factors(&Cpo::new(&config), &losses());
            }
        }
    }
}
