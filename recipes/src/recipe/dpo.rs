//! `train dpo`: direct preference optimization, from pairs of a chosen and a rejected answer.
//!
//! The reference is the model at the start of the run: the base model, with the initial adapter if there is one.

use burnish_engine::Batch;
use burnish_engine::objective::{Judge, Judgement, Losses};

use super::logistic::{log_sigmoid, sigmoid, sigmoid_slope, smoothed};
use super::pairs::{self, Answer, PairLoss, Pairs};
use crate::config::{LossType, TrainConfig};

/// A loss of the margin `m = β (log π(chosen) - log π₀(chosen) - log π(rejected) + log π₀(rejected))`, by default `-log σ(m)`.
///
/// # Source
/// Rafailov et al. 2023, "Direct Preference Optimization". `DPOTrainer` of TRL 1.16: losses, metrics and their names are its own;
/// `rpo_alpha` stands for its `loss_type = […, "sft"]` with `loss_weights = [1, rpo_alpha]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// Strength of the penalty for leaving the reference model, β.
    pub beta: f64,
    /// The loss.
    pub loss: Loss,
    /// Weight of the negative log-likelihood of the chosen answers; 0 leaves it out.
    pub rpo_alpha: f64,
}

/// The loss of a pair, with `a` and `b` for β times the log-ratios of the chosen and the rejected answer to the reference, and `m = a - b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// `-log σ(m)`.
    Sigmoid,
    /// `(-(1 - ε) log σ(m) + ε log σ(-m)) / (1 - 2ε)`: assumes that a share ε of the pairs is mislabelled (Chowdhury et al. 2024).
    Robust {
        /// ε, below 0.5.
        label_smoothing: f64,
    },
    /// `max(0, 1 - m)` (Zhao et al. 2023, SLiC).
    Hinge,
    /// `(d - 1 / 2β)²`, with the difference `d` of the log-ratios per token (Azar et al. 2023).
    Ipo,
    /// `-log σ(β d)`, with the same difference.
    SigmoidNorm,
    /// `-log σ(a) - ½ log σ(-a) - ½ log σ(-b)` (Chen et al. 2024).
    NcaPair,
    /// `-log σ(a) - log σ(-b)` (Jung et al. 2024, without its shift of rewards).
    BcoPair,
    /// `(a/β - 1/2β)² + (b/β + 1/2β)²` (Wu et al. 2024).
    SppoHard,
    /// `1 - σ(a) + σ(b)` (D'Oosterlinck et al. 2024).
    ApoZero,
    /// `σ(a) + 1 - σ(m)` (the same).
    ApoDown,
}

/// The losses that `loss_type` may name.
pub(super) const LOSSES: &[LossType] = &[
    LossType::Sigmoid,
    LossType::Robust,
    LossType::Hinge,
    LossType::Ipo,
    LossType::SigmoidNorm,
    LossType::NcaPair,
    LossType::BcoPair,
    LossType::SppoHard,
    LossType::ApoZero,
    LossType::ApoDown,
];

impl Dpo {
    /// The objective of a configuration. With `label_smoothing` the loss is [`Loss::Robust`] by default.
    pub fn new(config: &TrainConfig) -> Self {
        let label_smoothing = config.label_smoothing;
        let loss = match config.loss_type {
            LossType::Hinge => Loss::Hinge,
            LossType::Ipo => Loss::Ipo,
            LossType::SigmoidNorm => Loss::SigmoidNorm,
            LossType::NcaPair => Loss::NcaPair,
            LossType::BcoPair => Loss::BcoPair,
            LossType::SppoHard => Loss::SppoHard,
            LossType::ApoZero => Loss::ApoZero,
            LossType::ApoDown => Loss::ApoDown,
            LossType::Robust => Loss::Robust { label_smoothing },
            LossType::Auto if label_smoothing > 0.0 => Loss::Robust { label_smoothing },
            _ => Loss::Sigmoid,
        };
        Self { beta: config.beta, loss, rpo_alpha: config.rpo_alpha }
    }

    fn loss(&self, pair: [Answer; 2]) -> PairLoss {
        let beta = self.beta;
        let ratios = pair.map(Answer::log_ratio);
        let [a, b] = ratios.map(|ratio| beta * ratio);
        let per_token = pair.map(|answer| 1.0 / answer.length());
        let difference = ratios[0] * per_token[0] - ratios[1] * per_token[1];
        // Of losses of `a` and `b`, from the derivatives by these.
        let of = |loss: f64, slopes: [f64; 2]| PairLoss { loss, slopes: slopes.map(|slope| beta * slope) };
        match self.loss {
            Loss::Sigmoid => PairLoss::of_difference(smoothed(a - b, 0.0), [beta; 2]),
            Loss::Robust { label_smoothing } => {
                let (clean, flipped) = (smoothed(a - b, 0.0), smoothed(b - a, 0.0));
                let mixed = |clean: f64, flipped: f64| {
                    ((1.0 - label_smoothing) * clean - label_smoothing * flipped) / (1.0 - 2.0 * label_smoothing)
                };
                // The second margin falls with the first one.
                PairLoss::of_difference((mixed(clean.0, flipped.0), mixed(clean.1, -flipped.1)), [beta; 2])
            }
            Loss::Hinge => {
                let slope = if a - b < 1.0 { -1.0 } else { 0.0 };
                PairLoss::of_difference(((1.0 - a + b).max(0.0), slope), [beta; 2])
            }
            Loss::Ipo => {
                let excess = difference - 0.5 / beta;
                PairLoss::of_difference((excess * excess, 2.0 * excess), per_token)
            }
            Loss::SigmoidNorm => {
                let scores = per_token.map(|share| beta * share);
                PairLoss::of_difference(smoothed(beta * difference, 0.0), scores)
            }
            Loss::NcaPair => of(
                -log_sigmoid(a) - 0.5 * (log_sigmoid(-a) + log_sigmoid(-b)),
                [-sigmoid(-a) + 0.5 * sigmoid(a), 0.5 * sigmoid(b)],
            ),
            Loss::BcoPair => of(-log_sigmoid(a) - log_sigmoid(-b), [-sigmoid(-a), sigmoid(b)]),
            Loss::SppoHard => {
                let [chosen, rejected] = [ratios[0] - 0.5 / beta, ratios[1] + 0.5 / beta];
                PairLoss { loss: chosen * chosen + rejected * rejected, slopes: [2.0 * chosen, 2.0 * rejected] }
            }
            Loss::ApoZero => of(sigmoid(-a) + sigmoid(b), [-sigmoid_slope(a), sigmoid_slope(b)]),
            Loss::ApoDown => {
                of(sigmoid(a) + sigmoid(b - a), [sigmoid_slope(a) - sigmoid_slope(a - b), sigmoid_slope(a - b)])
            }
        }
    }
}

impl Judge for Dpo {
    fn has_reference(&self) -> bool {
        true
    }

    /// Pairs, and tokens of chosen answers if these are learned too.
    fn counts(&self, batch: &Batch) -> Vec<usize> {
        let tokens = (self.rpo_alpha > 0.0).then(|| pairs::chosen_tokens(batch));
        std::iter::once(pairs::count(batch)).chain(tokens).collect()
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        Pairs::new(batch, losses).judge(
            |pair| self.loss(pair),
            |answer| self.beta * answer.log_ratio(),
            |answer| answer.log_probability,
            self.rpo_alpha,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::pairs::example::{batch, check_factors, losses, metric};

    #[test]
    fn losses_and_rewards_follow_the_formula() {
        let judge = Dpo { beta: 0.5, loss: Loss::Robust { label_smoothing: 0.1 }, rpo_alpha: 0.25 };
        let found = judge.judge(&batch(), &losses());
        // First pair: 0.5 · 1.0 and 0.5 · 0.25; second: 0.5 · -1.5 and 0.5 · -2.0.
        let margins = [0.5 - 0.125, -0.75 + 1.0];
        let loss = |margin: f64| (-0.9 * sigmoid(margin).ln() + 0.1 * sigmoid(-margin).ln()) / 0.8;
        assert!((found.terms[0].loss - margins.map(loss).iter().sum::<f64>()).abs() < 1e-12, "{found:?}");
        assert!((metric(&found, "rewards/chosen") - (0.5 - 0.75) / 2.0).abs() < 1e-12);
        assert!((metric(&found, "rewards/margins") - margins.iter().sum::<f64>() / 2.0).abs() < 1e-12);
        assert!((metric(&found, "rewards/accuracies") - 1.0).abs() < 1e-12);
        assert!((metric(&found, "logps/chosen") + 7.5 / 2.0).abs() < 1e-12);
        assert!((found.terms[1].loss - 0.25 * 7.5).abs() < 1e-12 && (metric(&found, "nll_loss") - 7.5 / 4.0).abs() < 1e-12);
        assert_eq!(judge.counts(&batch()), [2, 4]);
    }

    #[test]
    fn factors_are_the_derivatives() {
        for loss_type in LOSSES {
            for (beta, label_smoothing, rpo_alpha) in [(0.1, 0.0, 0.0), (1.7, 0.2, 0.5)] {
                let config =
                    TrainConfig { beta, label_smoothing, rpo_alpha, loss_type: *loss_type, ..TrainConfig::default() };
                check_factors(&Dpo::new(&config), &losses());
            }
        }
        let smoothed = Dpo::new(&TrainConfig { label_smoothing: 0.2, ..TrainConfig::default() });
        assert_eq!(smoothed.loss, Loss::Robust { label_smoothing: 0.2 });
    }
}
