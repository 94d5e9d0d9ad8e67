//! `train kto`: Kahneman-Tversky optimization, from single answers that are known to be good or bad.
//!
//! The reference is the model at the start of the run, as in dpo. How far the model has left it is estimated from answers of other prompts:
//! each prompt of a micro-batch with the answer of the example before it.

use std::borrow::Borrow;

use burnish_engine::objective::{Judge, Judgement, Losses, Metric, Term};
use burnish_engine::{Batch, IGNORE};

use super::logistic::{sigmoid, sigmoid_slope};
use crate::config::{LossType, TrainConfig};
use crate::data::{BatchOptions, Example, Examples};

/// `L = w (1 - σ(±β (r - z)))`, with the log-ratio `r = log π - log π₀` of an answer, plus for a good one and minus for a bad one, and the
/// mean log-ratio `z` of the mismatched answers, at least 0 and without a gradient.
///
/// # Source
/// Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization"; `apo_zero_unpaired`: D'Oosterlinck et al. 2024.
/// `KTOTrainer` of TRL 1.16, whose metrics it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kto {
    /// Strength of the penalty for leaving the reference model, β.
    pub beta: f64,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
    /// Whether `z` is estimated; without it, it is 0, which is TRL's loss `apo_zero_unpaired`.
    pub has_baseline: bool,
    /// Mismatched rows are truncated to this many tokens.
    pub max_seq_length: usize,
    /// What the tokens of mismatched rows are rounded up to a multiple of, as those of the batch.
    pub granule: usize,
}

/// The losses that `loss_type` may name.
pub(super) const LOSSES: &[LossType] = &[LossType::Kto, LossType::ApoZeroUnpaired];

impl Kto {
    /// The objective of a configuration.
    pub fn new(config: &TrainConfig) -> Self {
        Self {
            beta: config.beta,
            desirable_weight: config.desirable_weight,
            undesirable_weight: config.undesirable_weight,
            has_baseline: config.loss_type != LossType::ApoZeroUnpaired,
            max_seq_length: config.max_seq_length,
            granule: 1,
        }
    }

    /// Each prompt with the answer of the example before it. Answers of the same prompt are skipped while there are others; a lone
    /// example gets its own answer, as in TRL.
    fn mismatched(&self, batch: &Batch) -> Vec<Example> {
        let examples = examples(batch);
        let parts: Vec<_> = examples.iter().map(split).collect();
        let count = parts.len();
        let other = |index: usize| {
            let mut before = (1..count).map(|step| (index + count - step) % count);
            before.find(|other| parts[*other].0 != parts[index].0).unwrap_or((index + count - 1) % count)
        };
        let made = |(index, (prompt, _)): (usize, &Parts<'_>)| {
            let (_, Part { ids, labels }) = &parts[other(index)];
            let mut input_ids = [prompt.ids, ids].concat();
            let mut labels = [vec![IGNORE; prompt.ids.len()], labels.to_vec()].concat();
            input_ids.truncate(self.max_seq_length);
            labels.truncate(self.max_seq_length);
            Example { input_ids, labels, desirable: true }
        };
        parts.iter().enumerate().map(made).collect()
    }
}

/// Whether all of these examples have the same prompt.
pub fn has_one_prompt<E: Borrow<Example>>(examples: impl IntoIterator<Item = E>) -> bool {
    let mut examples = examples.into_iter();
    let Some(first) = examples.next() else { return true };
    examples.all(|example| prompt(example.borrow()) == prompt(first.borrow()))
}

/// The most tokens that the mismatched rows of these examples can have: each prompt with the longest answer.
pub fn longest_beside<E: Borrow<Example>>(examples: impl IntoIterator<Item = E>, max_seq_length: usize) -> usize {
    let lengths = |example: E| {
        let (prompt, all) = (prompt(example.borrow()).len(), example.borrow().input_ids.len());
        (prompt, all - prompt)
    };
    let (prompts, answers): (Vec<usize>, Vec<usize>) = examples.into_iter().map(lengths).unzip();
    let longest = answers.into_iter().max().unwrap_or(0);
    prompts.into_iter().map(|prompt| (prompt + longest).min(max_seq_length)).sum()
}

/// The prompt as a batch has it, where the first token is never learned.
fn prompt(example: &Example) -> &[u32] {
    let learned = example.labels.iter().skip(1).position(|label| *label != IGNORE);
    &example.input_ids[..learned.map_or(example.input_ids.len(), |at| at + 1)]
}

/// A note if all answers are good or all are bad, or if the weights don't make up for different numbers of good and bad answers: by the paper, the good ones should count as much as
/// the bad ones, to a third more.
pub fn imbalance(config: &TrainConfig, examples: &Examples) -> Option<String> {
    let good = examples.iter().filter(|example| example.desirable).count();
    let bad = examples.len() - good;
    if good.min(bad) == 0 {
        let kind = if bad == 0 { "good" } else { "bad" };
        return Some(format!("all {} answers are {kind}: kto learns from good and bad ones", examples.len()));
    }
    let [low, high] = [1.0, 4.0 / 3.0].map(|share| share * config.undesirable_weight * bad as f64 / good as f64);
    // As TRL, which rounds the limits.
    let is_within = (low - 0.005..=high + 0.005).contains(&config.desirable_weight);
    (good != bad && !is_within).then(|| {
        format!("{good} good and {bad} bad answers: desirable_weight from {low:.2} to {high:.2} would balance them")
    })
}

/// Tokens with their labels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part<'a> {
    ids: &'a [u32],
    labels: &'a [i64],
}

/// A prompt and its answer.
type Parts<'a> = (Part<'a>, Part<'a>);

/// Splits an example at its first learned token.
fn split(example: &Example) -> Parts<'_> {
    let at = example.labels.iter().position(|label| *label != IGNORE).unwrap_or(example.labels.len());
    let (prompt, answer) = example.input_ids.split_at(at);
    let (unlearned, labels) = example.labels.split_at(at);
    (Part { ids: prompt, labels: unlearned }, Part { ids: answer, labels })
}

/// The examples of a batch.
fn examples(batch: &Batch) -> Vec<Example> {
    let empty = Example { input_ids: Vec::new(), labels: Vec::new(), desirable: true };
    let mut examples = vec![empty; batch.examples()];
    for ((segment, id), label) in batch.segment_ids.iter().zip(&batch.input_ids).zip(&batch.labels) {
        if let Some(example) = segment.checked_sub(1) {
            let example = &mut examples[example as usize];
            example.input_ids.push(*id);
            example.labels.push(*label);
        }
    }
    examples
}

/// What an answer adds to the metrics.
struct Rated {
    is_good: bool,
    log_probability: f64,
    log_ratio: f64,
}

/// TRL's metrics; a step's margin is the mean over the micro-batches that have answers of both kinds.
fn metrics(answers: &[Rated], beta: f64) -> Vec<Metric> {
    let count = |is_good: bool| answers.iter().filter(|answer| answer.is_good == is_good).count();
    let sum = |is_good: bool, value: &dyn Fn(&Rated) -> f64| -> f64 {
        answers.iter().filter(|answer| answer.is_good == is_good).map(value).sum()
    };
    let reward = |answer: &Rated| beta * answer.log_ratio;
    let log_probability = |answer: &Rated| answer.log_probability;
    let (good, bad) = (count(true), count(false));
    let [chosen, rejected] = [sum(true, &reward), sum(false, &reward)];
    let mut metrics = vec![
        Metric { name: "rewards/chosen", sum: chosen, count: good },
        Metric { name: "rewards/rejected", sum: rejected, count: bad },
        Metric { name: "rewards/margins", sum: chosen / good as f64 - rejected / bad as f64, count: good.min(bad).min(1) },
        Metric { name: "logps/chosen", sum: sum(true, &log_probability), count: good },
        Metric { name: "logps/rejected", sum: sum(false, &log_probability), count: bad },
    ];
    metrics.retain(|metric| metric.count > 0);
    metrics
}

impl Judge for Kto {
    fn has_reference(&self) -> bool {
        true
    }

    fn has_rows_beside(&self) -> bool {
        self.has_baseline
    }

    fn beside(&self, batch: &Batch) -> Option<Batch> {
        if !self.has_baseline {
            return None;
        }
        let examples = self.mismatched(batch);
        let options = BatchOptions {
            batch_size: examples.len(),
            max_seq_length: self.max_seq_length,
            padding_free: batch.rows < examples.len(),
            granule: self.granule,
            ..BatchOptions::default()
        };
        Some(options.lay_out(&examples))
    }

    /// Answers.
    fn counts(&self, batch: &Batch) -> Vec<usize> {
        vec![batch.examples()]
    }

    fn judge(&self, batch: &Batch, losses: &Losses) -> Judgement {
        let (beta, count) = (self.beta, batch.examples());
        let sum = |losses: &[f64]| losses.iter().sum::<f64>();
        let baseline = ((sum(&losses.beside_reference) - sum(&losses.beside)) / count.max(1) as f64).max(0.0);
        let is_good = |example: usize| batch.desirable.get(example).copied().unwrap_or(true);
        let rated = |example| Rated { is_good: is_good(example), log_probability: 0.0, log_ratio: 0.0 };
        let mut answers: Vec<Rated> = (0..count).map(rated).collect();
        let answer_of = batch.target_examples();
        for ((example, loss), reference) in answer_of.iter().zip(&losses.policy).zip(&losses.reference) {
            answers[*example].log_probability -= loss;
            answers[*example].log_ratio += reference - loss;
        }
        let of = |answer: &Rated| {
            let (sign, weight) = if answer.is_good { (1.0, self.desirable_weight) } else { (-1.0, self.undesirable_weight) };
            let margin = sign * beta * (answer.log_ratio - baseline);
            (weight * sigmoid(-margin), -weight * sign * beta * sigmoid_slope(margin))
        };
        let found: Vec<(f64, f64)> = answers.iter().map(of).collect();
        let term = Term {
            loss: found.iter().map(|(loss, _)| loss).sum(),
            factors: answer_of.iter().map(|example| -found[*example].1).collect(),
        };
        let mut metrics = metrics(&answers, beta);
        if self.has_baseline {
            metrics.push(Metric { name: "kl", sum: baseline, count: 1 });
        }
        Judgement { terms: vec![term], metrics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;
    use crate::recipe::check_rows;
    use crate::recipe::pairs::example::{batch, check_factors, losses, metric};

    const KTO: Kto = Kto {
        beta: 0.5,
        desirable_weight: 1.5,
        undesirable_weight: 0.75,
        has_baseline: true,
        max_seq_length: 8,
        granule: 1,
    };

    #[test]
    fn losses_follow_the_formula() {
        // The four mismatched answers have a log-ratio of 2 in all.
        let known = Losses { beside: vec![1.0, 2.0], beside_reference: vec![2.0, 3.0], ..losses() };
        let found = KTO.judge(&batch(), &known);
        let loss = |sign: f64, ratio: f64| 1.0 - sigmoid(sign * 0.5 * (ratio - 0.5));
        let expected = 1.5 * (loss(1.0, 1.0) + loss(1.0, -1.5)) + 0.75 * (loss(-1.0, 0.25) + loss(-1.0, -2.0));
        assert!((found.terms[0].loss - expected).abs() < 1e-12, "{found:?}");
        assert!((metric(&found, "kl") - 0.5).abs() < 1e-12);
        assert!((metric(&found, "rewards/chosen") + 0.125).abs() < 1e-12);
        assert!((metric(&found, "rewards/margins") - (-0.125 + 0.4375)).abs() < 1e-12);
        // The estimate is at least 0.
        let below = KTO.judge(&batch(), &Losses { beside: vec![9.0], beside_reference: vec![1.0], ..known });
        assert!(metric(&below, "kl").abs() < 1e-12);
        // A batch without bad answers has no metrics of them.
        let good = Batch { desirable: vec![true; 4], ..batch() };
        assert_eq!(KTO.judge(&good, &losses()).metrics.len(), 3);
    }

    #[test]
    fn weights_should_balance_the_answers() {
        let examples = |good: usize, bad: usize| -> Examples {
            let of = |desirable| Example { input_ids: vec![1], labels: vec![1], desirable };
            [vec![of(true); good], vec![of(false); bad]].concat().into()
        };
        let note = imbalance(&TrainConfig::default(), &examples(8, 4)).unwrap();
        assert!(note.starts_with("8 good and 4 bad answers: desirable_weight from 0.50 to 0.67"), "{note}");
        let weighted = TrainConfig { desirable_weight: 0.6, ..TrainConfig::default() };
        assert!(imbalance(&weighted, &examples(8, 4)).is_none());
        for (counts, said) in [((3, 0), "all 3 answers are good"), ((0, 2), "all 2 answers are bad")] {
            assert!(imbalance(&weighted, &examples(counts.0, counts.1)).unwrap().starts_with(said));
        }
        assert!([(4, 4), (4, 5)].iter().all(|(good, bad)| {
            imbalance(&TrainConfig { desirable_weight: 1.25, ..weighted.clone() }, &examples(*good, *bad)).is_none()
        }));
    }

    #[test]
    fn one_prompt_is_nothing_to_compare() {
        let of =
            |ids: [u32; 2], labels: [i64; 2]| Example { input_ids: ids.to_vec(), labels: labels.to_vec(), desirable: true };
        let (one, same) = (of([1, 5], [IGNORE, 5]), of([1, 6], [1, 6]));
        let other = of([2, 5], [IGNORE, 5]);
        assert!(has_one_prompt([&one, &same]) && has_one_prompt([&one]) && !has_one_prompt([&one, &same, &other]));
        let config = TrainConfig { recipe: Recipe::Kto, ..TrainConfig::default() };
        let error = check_rows(&config, &vec![one.clone(), same.clone()].into()).unwrap_err().to_string();
        assert!(error.contains("only one prompt, but prompts are compared"), "{error}");
        check_rows(&config, &vec![one.clone(), other].into()).unwrap();
        check_rows(&TrainConfig { loss_type: LossType::ApoZeroUnpaired, ..config }, &vec![one, same].into()).unwrap();
    }

    #[test]
    fn factors_are_the_derivatives() {
        check_factors(&KTO, &Losses { beside: vec![1.0], beside_reference: vec![3.0], ..losses() });
        check_factors(&Kto { has_baseline: false, ..KTO }, &losses());
    }

    #[test]
    fn prompts_get_answers_of_other_prompts() {
        // Both answers of a pair have the same prompt, so one is skipped.
        let made = KTO.mismatched(&batch());
        let ids = |index: usize| made[index].input_ids.as_slice();
        assert_eq!((ids(0), ids(1)), (&[0, 0, 7][..], &[0, 0, 7][..]));
        assert_eq!((ids(2), ids(3)), (&[1, 1, 7][..], &[1, 1, 7][..]));
        assert_eq!(made[0].labels, [IGNORE, IGNORE, 7]);
        // The layout is that of the batch itself.
        let beside = KTO.beside(&batch()).unwrap();
        assert_eq!((beside.rows, beside.examples(), beside.target_tokens), (4, 4, 4));
        let free = Batch { rows: 1, length: 16, ..batch() };
        assert_eq!(KTO.beside(&free).unwrap().rows, 1);
        let rounded = Kto { granule: 24, ..KTO }.beside(&free).unwrap();
        assert_eq!((rounded.rows, rounded.length, rounded.tokens), (1, 24, 12));
        let without = Kto { has_baseline: false, ..KTO };
        assert!(without.beside(&batch()).is_none() && !without.has_rows_beside() && KTO.has_rows_beside());
        let short = Kto { max_seq_length: 2, ..KTO };
        assert_eq!(short.beside(&batch()).unwrap().target_tokens, 0);
    }
}
