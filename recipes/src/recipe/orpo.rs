//! `train orpo`: odds ratio preference optimization, from pairs of a chosen and a rejected answer, without a reference model.

use std::borrow::Cow;

use burnish_engine::objective::{Judge, Judgement, Losses, Metric, Term};
use burnish_engine::{Batch, IGNORE};

use super::logistic::{log_sigmoid, sigmoid};
use super::pairs::{self, Answer, PairLoss, Pairs};
use crate::config::TrainConfig;

/// `L = NLL - β log σ(log odds(chosen) - log odds(rejected))`, with `odds = p / (1 - p)` of an answer's probability per token. The negative
/// log-likelihood is the mean over all tokens of the chosen text, those of its prompt included.
///
/// # Source
/// Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model". `ORPOTrainer` of TRL 1.16, whose metrics it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Orpo {
    /// Weight of the odds ratio, β; λ in the paper.
    pub beta: f64,
}

/// Nearer to 0, a logarithm of the odds would overflow.
const LARGEST: f64 = -1e-12;

/// `log (p / (1 - p))` for `p = exp(x)`, and its derivative.
fn log_odds(x: f64) -> (f64, f64) {
    let x = x.min(LARGEST);
    let rest = -x.exp_m1();
    (x - rest.ln(), 1.0 / rest)
}

impl Orpo {
    /// The objective of a configuration.
    pub fn new(config: &TrainConfig) -> Self {
        Self { beta: config.beta }
    }

    /// The logarithm of the odds ratio of a pair, and its derivatives by the log-probabilities.
    fn ratio(pair: [Answer; 2]) -> (f64, [f64; 2]) {
        let [chosen, rejected] = pair.map(|answer| log_odds(answer.mean()));
        (chosen.0 - rejected.0, [chosen.1 / pair[0].length(), rejected.1 / pair[1].length()])
    }

    fn loss(self, pair: [Answer; 2]) -> PairLoss {
        let (ratio, slopes) = Self::ratio(pair);
        PairLoss::of_difference((-self.beta * log_sigmoid(ratio), -self.beta * sigmoid(-ratio)), slopes)
    }
}

impl Judge for Orpo {
    fn has_reference(&self) -> bool {
        false
    }

    /// The prompts of chosen answers are learned too.
    fn labelled<'a>(&self, batch: &'a Batch) -> Cow<'a, Batch> {
        let mut all = batch.clone();
        for (index, label) in all.labels.iter_mut().enumerate() {
            let example = batch.segment_ids[index].checked_sub(1);
            if example.is_some_and(|example| pairs::is_chosen(example as usize)) && batch.position_ids[index] > 0 {
                *label = i64::from(batch.input_ids[index]);
            }
        }
        all.target_tokens = all.labels.iter().filter(|label| **label != IGNORE).count();
        Cow::Owned(all)
    }

    /// Pairs, and tokens of chosen texts.
    fn counts(&self, batch: &Batch) -> Vec<usize> {
        vec![pairs::count(batch), pairs::chosen_tokens(&self.labelled(batch))]
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        let labelled = self.labelled(batch);
        let is_answer = labelled.is_predicted_by(batch);
        let answers = losses.policy.iter().zip(&is_answer).filter(|(_, is_answer)| **is_answer);
        let pairs = Pairs::new(batch, &Losses { policy: answers.map(|(loss, _)| *loss).collect(), ..Losses::default() });
        let Term { loss, factors } = pairs.term(|pair| self.loss(pair));
        let mut factors = factors.into_iter();
        let factors = is_answer.iter().map(|is_answer| if *is_answer { factors.next().unwrap_or(0.0) } else { 0.0 });
        let preference = Term { loss, factors: factors.collect() };

        let texts = Pairs::new(&labelled, losses);
        let mut metrics = pairs.metrics(|answer| self.beta * answer.mean(), Answer::mean);
        let ratio = |pair: [Answer; 2]| Self::ratio(pair).0;
        let more: [Metric; 3] = [
            texts.chosen_metric(),
            pairs.metric("log_odds_ratio", |pair| log_sigmoid(ratio(pair))),
            pairs.metric("log_odds_chosen", ratio),
        ];
        metrics.extend(more);
        Judgement { terms: vec![preference, texts.chosen_term(1.0)], metrics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::pairs::example::{batch, check_factors, metric};

    /// Of texts of one prompt token, which is learned where the answer is chosen, and of two and one answer tokens.
    fn losses() -> Losses {
        Losses { policy: vec![4.0, 1.0, 2.0, 0.5, 6.0, 3.0, 1.5, 2.5], ..Losses::default() }
    }

    #[test]
    fn losses_follow_the_formula() {
        let judge = Orpo { beta: 0.5 };
        let found = judge.judge(&batch(), &losses());
        let odds = |mean: f64| (mean.exp() / (1.0 - mean.exp())).ln();
        let ratios = [odds(-1.5) - odds(-0.5), odds(-2.25) - odds(-2.5)];
        let loss: f64 = ratios.iter().map(|ratio| 0.5 * (1.0 + (-ratio).exp()).ln()).sum();
        assert!((found.terms[0].loss - loss).abs() < 1e-12, "{found:?}");
        assert!((metric(&found, "log_odds_chosen") - f64::midpoint(ratios[0], ratios[1])).abs() < 1e-12);
        assert!((found.terms[1].loss - 17.5).abs() < 1e-12 && (metric(&found, "nll_loss") - 17.5 / 6.0).abs() < 1e-12);
        assert_eq!(judge.counts(&batch()), [2, 6]);
    }

    #[test]
    fn factors_are_the_derivatives() {
        check_factors(&Orpo { beta: 0.5 }, &losses());
    }

    #[test]
    fn certain_answers_have_finite_losses() {
        let found = Orpo { beta: 0.5 }.judge(&batch(), &Losses { policy: vec![0.0; 8], ..Losses::default() });
        assert!(
            found.terms.iter().all(|term| term.loss.is_finite() && term.factors.iter().all(|factor| factor.is_finite()))
        );
    }
}
