//! Measures models on the same rows, prompts and questions, and compares them with the first.

use std::path::PathBuf;

use anyhow::Result;
use burnish_engine::Runner;
use burnish_models::Pretrained;
use serde::Serialize;

use super::answer::{Prompt, answers, is_same};
use super::bootstrap::{Bootstrap, CONFIDENCE, Estimate, Paired, share, share_difference};
use super::question::Question;
use super::task::{Choice, Task, TaskTokens};
use super::tokens::HeldOut;

/// What every model is measured by.
#[derive(Debug, Clone, Copy)]
pub struct Measures<'a> {
    /// Rows whose loss is computed.
    pub rows: Option<&'a HeldOut>,
    /// Prompts that are answered.
    pub prompts: &'a [Prompt],
    /// Multiple-choice questions.
    pub task: Option<&'a Task>,
}

/// The results of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Whether it is an adapter that is zero; `None` if it is a model.
    pub is_zero: Option<bool>,
    /// The summed loss of each row.
    pub losses: Vec<f64>,
    /// The answer to each prompt.
    pub answers: Vec<String>,
    /// What it says to each question.
    pub choices: Vec<Choice>,
}

impl Measures<'_> {
    /// Measures a model; `questions` are the tokens of the task, and `say` gets lines on the progress.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of(
        &self,
        runner: &mut dyn Runner,
        model: &Pretrained,
        questions: Option<&TaskTokens>,
        say: &mut dyn FnMut(String),
    ) -> Result<Measured> {
        let mut progress = |what: &'static str, done: usize, all: usize| {
            if done.is_multiple_of(20) {
                say(format!("{what}: batch {done} of {all}"));
            }
        };
        let losses = match self.rows {
            Some(rows) => rows.losses(runner, &mut |done, all| progress("rows", done, all))?,
            None => Vec::new(),
        };
        let choices = match (self.task, questions) {
            (Some(task), Some(tokens)) => task.choices(runner, tokens, &mut |done, all| progress("questions", done, all))?,
            _ => Vec::new(),
        };
        let answers = answers(runner, &model.tokenizer, &model.config.eos_token_id, self.prompts)?;
        Ok(Measured { name: String::new(), is_zero: None, losses, answers, choices })
    }
}

/// Models beside each other; the first is what the others are compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// How the intervals were found.
    pub bootstrap: Bootstrap,
    /// The confidence of the intervals.
    pub confidence: f64,
    /// The rows.
    pub data: Option<Counted>,
    /// The questions.
    pub task: Option<Counted>,
    /// The models.
    pub models: Vec<Compared>,
    /// Prompts with the answers of all models.
    pub answers: Vec<Answered>,
    /// Questions with what all models say.
    pub questions: Vec<Asked>,
}

/// A question with what all models say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The first line of its row, from 1.
    pub line: usize,
    /// The index of the right choice.
    pub right: usize,
    /// What each model says, in their order.
    pub models: Vec<Choice>,
}

/// A file that models were measured by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// The file.
    pub file: PathBuf,
    /// Its rows.
    pub rows: usize,
    /// The predicted tokens of all rows; 0 for questions.
    pub tokens: usize,
}

/// A model of a [`Comparison`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Whether it computes what the first model does: see the next two. `None` for the first.
    pub no_effect: Option<bool>,
    /// Whether every loss and log-likelihood is that of the first model to the bit.
    pub identical: Option<bool>,
    /// Whether it is an adapter whose update of every matrix is zero; `None` if it is no adapter.
    pub zero_adapter: Option<bool>,
    /// The largest difference from the first model in the mean loss of a row.
    pub largest_change: Option<f64>,
    /// Mean loss of a token.
    pub loss: Option<Paired>,
    /// `exp` of the loss.
    pub perplexity: Option<Estimate>,
    /// Right answers.
    pub exact_match: Option<Right>,
    /// Likeliest choices.
    pub acc: Option<Right>,
    /// Likeliest choices for their characters.
    pub acc_norm: Option<Right>,
    /// Likeliest choices for their bytes.
    pub acc_bytes: Option<Right>,
}

/// How many are right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Right {
    /// Their number.
    pub right: usize,
    /// The number of all.
    pub asked: usize,
    /// Their share, with Wilson's interval.
    pub share: Estimate,
    /// The share less that of the first model, with Bonett and Price's interval for pairs.
    pub difference: Estimate,
}

/// A prompt with the answers of all models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// The first line of its row, from 1.
    pub line: usize,
    /// The prompt.
    pub prompt: String,
    /// The expected answer.
    pub expected: String,
    /// The answer of each model, in their order.
    pub answers: Vec<String>,
    /// Whether each is the expected one.
    pub right: Vec<bool>,
}

impl Comparison {
    /// Compares what was measured.
    pub fn of(measures: &Measures<'_>, measured: &[Measured], bootstrap: Bootstrap) -> Self {
        let rows = measures.rows.map(HeldOut::weights).unwrap_or_default();
        let losses = measures.rows.map(|_| {
            let sums: Vec<Vec<f64>> = measured.iter().map(|model| model.losses.clone()).collect();
            bootstrap.paired(&sums, &rows)
        });
        let right = |of: &dyn Fn(&Measured) -> Vec<bool>| {
            let all: Vec<Vec<bool>> = measured.iter().map(of).collect();
            all.first().is_some_and(|first| !first.is_empty()).then(|| counted(&all))
        };
        let is_right = |model: &Measured| -> Vec<bool> {
            let pairs = measures.prompts.iter().zip(&model.answers);
            pairs.map(|(prompt, answer)| is_same(&prompt.expected, answer)).collect()
        };
        let exact = right(&is_right);
        let choices = |of: fn(&Choice) -> bool| right(&move |model| model.choices.iter().map(of).collect());
        let [acc, acc_norm, acc_bytes] =
            [choices(|choice| choice.acc), choices(|choice| choice.acc_norm), choices(|choice| choice.acc_bytes)];
        let at = |list: &Option<Vec<Right>>, index: usize| list.as_ref().map(|list| list[index]);
        let model = |(index, model): (usize, &Measured)| {
            let identical = (index > 0).then(|| is_identical(&measured[0], model));
            let loss = losses.as_ref().map(|losses| losses[index]);
            Compared {
                name: model.name.clone(),
                no_effect: identical.map(|identical| identical || model.is_zero == Some(true)),
                identical,
                zero_adapter: model.is_zero,
                largest_change: loss.filter(|_| index > 0).map(|_| largest_change(&measured[0], model, &rows)),
                loss,
                perplexity: loss.map(|loss| loss.mean.map(f64::exp)),
                exact_match: at(&exact, index),
                acc: at(&acc, index),
                acc_norm: at(&acc_norm, index),
                acc_bytes: at(&acc_bytes, index),
            }
        };
        let answered = |(index, prompt): (usize, &Prompt)| Answered {
            line: line_of(measures.rows, prompt.example),
            prompt: prompt.text.clone(),
            expected: prompt.expected.clone(),
            answers: measured.iter().map(|model| model.answers[index].clone()).collect(),
            right: measured.iter().map(|model| is_same(&prompt.expected, &model.answers[index])).collect(),
        };
        Self {
            bootstrap,
            confidence: CONFIDENCE,
            data: measures.rows.map(|rows| Counted {
                file: rows.file.clone(),
                rows: rows.rows.len(),
                tokens: rows.tokens(),
            }),
            task: measures.task.map(|task| Counted { file: task.file.clone(), rows: task.questions.len(), tokens: 0 }),
            models: measured.iter().enumerate().map(model).collect(),
            answers: measures.prompts.iter().enumerate().map(answered).collect(),
            questions: measures.task.map(|task| asked(task, measured)).unwrap_or_default(),
        }
    }
}

fn asked(task: &Task, measured: &[Measured]) -> Vec<Asked> {
    let asked = |(index, question): (usize, &Question)| Asked {
        line: question.line,
        right: question.right,
        models: measured.iter().filter_map(|model| model.choices.get(index).cloned()).collect(),
    };
    task.questions.iter().enumerate().map(asked).collect()
}

/// What is right for each model, and the differences from the first.
fn counted(all: &[Vec<bool>]) -> Vec<Right> {
    let of = |right: &Vec<bool>| {
        let (count, asked) = (right.iter().filter(|right| **right).count(), right.len());
        Right { right: count, asked, share: share(count, asked), difference: share_difference(right, &all[0]) }
    };
    all.iter().map(of).collect()
}

/// Whether two models give the same numbers to the bit.
fn is_identical(one: &Measured, other: &Measured) -> bool {
    let bits = |model: &Measured| -> Vec<u64> {
        let choices = model.choices.iter().flat_map(|choice| &choice.log_likelihoods);
        model.losses.iter().chain(choices).map(|value| value.to_bits()).collect()
    };
    bits(one) == bits(other)
}

fn largest_change(one: &Measured, other: &Measured, tokens: &[f64]) -> f64 {
    let changes =
        one.losses.iter().zip(&other.losses).zip(tokens).map(|((one, other), tokens)| (other - one).abs() / tokens);
    changes.fold(0.0, |largest, change| if change > largest || change.is_nan() { change } else { largest })
}

fn line_of(rows: Option<&HeldOut>, example: usize) -> usize {
    let row = rows.and_then(|rows| rows.rows.iter().find(|row| row.examples.contains(&example)));
    row.map_or(0, |row| row.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(losses: &[f64], choices: &[f64], is_zero: Option<bool>) -> Measured {
        let choice = |value: &f64| Choice {
            log_likelihoods: vec![*value, -3.0],
            acc: *value > -2.0,
            acc_norm: true,
            acc_bytes: true,
        };
        Measured {
            name: "a".to_owned(),
            is_zero,
            losses: losses.to_vec(),
            answers: Vec::new(),
            choices: choices.iter().map(choice).collect(),
        }
    }

    #[test]
    fn a_model_without_effect_is_found_by_its_numbers_or_its_file() {
        let base = measured(&[1.5, 2.0], &[-1.0], None);
        let nearly = measured(&[1.5, 2.0f64.next_up()], &[-1.0], Some(false));
        let measures = Measures { rows: None, prompts: &[], task: None };
        let bootstrap = Bootstrap { resamples: 100, seed: 0 };
        let of = |other: Measured| {
            let found = Comparison::of(&measures, &[base.clone(), other], bootstrap).models;
            assert_eq!((found[0].no_effect, found[0].identical), (None, None));
            (found[1].no_effect, found[1].identical)
        };
        assert_eq!(of(base.clone()), (Some(true), Some(true)));
        assert_eq!(of(nearly.clone()), (Some(false), Some(false)));
        assert_eq!(of(Measured { is_zero: Some(true), ..nearly }), (Some(true), Some(false)));
        assert_eq!(of(measured(&[1.5, 2.0], &[-2.5], None)), (Some(false), Some(false)));
        let found = Comparison::of(&measures, &[base.clone(), measured(&[1.5, 2.0], &[-2.5], None)], bootstrap);
        let acc = |index: usize| found.models[index].acc.map(|acc| (acc.right, acc.asked)).unwrap();
        assert_eq!((acc(0), acc(1)), ((1, 1), (0, 1)));
        assert!(found.models[0].exact_match.is_none() && found.models[0].loss.is_none());
    }

    #[test]
    fn the_largest_change_is_that_of_a_rows_mean() {
        let (one, other) = (measured(&[1.0, 8.0], &[], None), measured(&[2.0, 10.0], &[], None));
        assert!((largest_change(&one, &other, &[4.0, 2.0]) - 1.0).abs() < 1e-12);
        let broken = measured(&[f64::NAN, 10.0], &[], None);
        assert!(largest_change(&one, &broken, &[4.0, 2.0]).is_nan());
    }
}
