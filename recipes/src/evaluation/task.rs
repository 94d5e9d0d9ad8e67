//! Scores models on multiple-choice questions by the log-likelihood of each choice, as lm-evaluation-harness does.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use burnish_engine::{Runner, with_hint};
use burnish_models::{Message, ModelError, Pretrained};
use serde::Serialize;

use super::question::{Question, read};
use super::tokens::example_losses;
use crate::data::{BatchOptions, Batches, Example, IGNORE};

/// The questions of a file, and how they are put.
#[derive(Debug, Clone)]
pub struct Task {
    /// The file.
    pub file: PathBuf,
    /// Its questions.
    pub questions: Vec<Question>,
    /// Whether a question is a message of a conversation, and a choice the beginning of the answer.
    pub is_chat: bool,
}

/// The questions as tokens: a text for each choice.
#[derive(Debug, Clone)]
pub struct TaskTokens {
    batches: Batches,
    of_question: Vec<Range<usize>>,
    /// Texts whose beginning was cut off.
    pub cut: usize,
}

/// What a model says to a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The summed log-likelihood of each choice.
    pub log_likelihoods: Vec<f64>,
    /// Whether the likeliest choice is the right one: `acc` of lm-evaluation-harness.
    pub acc: bool,
    /// The same for log-likelihoods divided by the characters of the choice: `acc_norm`.
    pub acc_norm: bool,
    /// The same for log-likelihoods divided by the bytes of the choice: `acc_bytes`.
    pub acc_bytes: bool,
}

impl Task {
    /// Reads a file of JSON rows.
    ///
    /// # Errors
    /// When the file can't be read, or has a row that is not a question.
    pub fn read(file: PathBuf, is_chat: bool) -> Result<Self> {
        let questions = read(&file)?;
        Ok(Self { file, questions, is_chat })
    }

    /// Tokenises question and choice together for each choice. The tokens after those of the question alone are scored.
    ///
    /// # Errors
    /// When the model has no chat template but needs one, or a choice has no tokens of its own, or too many.
    pub fn tokens(&self, model: &Pretrained, options: BatchOptions) -> Result<TaskTokens> {
        let (mut examples, mut of_question, mut cut) = (Vec::new(), Vec::new(), 0);
        for question in &self.questions {
            let start = examples.len();
            for index in 0..question.choices.len() {
                let place = || format!("{}:{}: choice {index}", self.file.display(), question.line);
                let (mut tokens, scored) = self.encoded(model, question, index).with_context(place)?;
                let limit = options.max_seq_length;
                if scored == 0 || scored >= limit {
                    let reason = if scored == 0 { "has no tokens of its own" } else { "is longer than --max-seq-length" };
                    return Err(with_hint(format!("{} {reason}", place()), "remove the question, or change its choices"));
                }
                if let Some(id) = tokens.iter().find(|id| **id as usize >= model.config.vocab_size) {
                    let size = model.config.vocab_size;
                    return Err(anyhow::anyhow!("{}: token {id} is outside the vocabulary of {size}", place()));
                }
                cut += usize::from(tokens.len() > limit);
                tokens.drain(..tokens.len().saturating_sub(limit));
                let first = tokens.len() - scored;
                let label = |(at, id): (usize, &u32)| if at < first { IGNORE } else { i64::from(*id) };
                let labels = tokens.iter().enumerate().map(label).collect();
                examples.push(Example { input_ids: tokens, labels, desirable: true });
            }
            of_question.push(start..examples.len());
        }
        let options = BatchOptions { packing: false, shuffle_seed: None, ..options };
        Ok(TaskTokens { batches: Batches::new(examples, options), of_question, cut })
    }

    /// The tokens of question and choice, and how many of them are the choice's.
    fn encoded(&self, model: &Pretrained, question: &Question, index: usize) -> Result<(Vec<u32>, usize)> {
        let (text, between) = if self.is_chat {
            let template = model.chat_template.as_ref().ok_or(ModelError::NoTemplate)?;
            (template.render(&[Message::new("user", &question.text)], None, true)?, "")
        } else {
            (question.text.clone(), " ")
        };
        // A template writes the special tokens itself.
        let encode = |text: &str| {
            if self.is_chat { model.tokenizer.encode(text, false) } else { model.tokenizer.encode_prompt(text) }
        };
        let [text, rest] = split(&text, &question.choices[index], between);
        let (alone, whole) = (encode(&text)?, encode(&format!("{text}{rest}"))?);
        let scored = whole.len().saturating_sub(alone.len());
        Ok((whole, scored))
    }

    /// What a model says to each question.
    ///
    /// # Errors
    /// When the device fails, or a log-likelihood is not finite.
    pub fn choices(
        &self,
        runner: &mut dyn Runner,
        tokens: &TaskTokens,
        on_batch: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Choice>> {
        let losses = example_losses(runner, &tokens.batches, on_batch)?;
        let choice = |(question, range): (&Question, &Range<usize>)| {
            let log_likelihoods: Vec<f64> = losses[range.clone()].iter().map(|loss| -loss).collect();
            if log_likelihoods.iter().any(|value| !value.is_finite()) {
                return Err(with_hint(
                    format!("{}:{}: a log-likelihood is not finite", self.file.display(), question.line),
                    "use --dtype bf16 or --dtype f32, which have a larger range",
                ));
            }
            Ok(Choice::of(question, log_likelihoods))
        };
        self.questions.iter().zip(&tokens.of_question).map(choice).collect()
    }
}

impl Choice {
    fn of(question: &Question, log_likelihoods: Vec<f64>) -> Self {
        let is_right = |length: &dyn Fn(&str) -> usize| {
            let scores = question.choices.iter().zip(&log_likelihoods);
            likeliest(scores.map(|(choice, sum)| sum / length(choice) as f64)) == question.right
        };
        Self {
            acc: is_right(&|_| 1),
            acc_norm: is_right(&|choice| choice.chars().count()),
            acc_bytes: is_right(&str::len),
            log_likelihoods,
        }
    }
}

/// The index of the largest score, the first of equal ones.
fn likeliest(scores: impl Iterator<Item = f64>) -> usize {
    let larger = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    scores.enumerate().reduce(larger).map_or(0, |(index, _)| index)
}

/// The text before the choice, and the rest: white space at its end belongs to the choice, as most tokenizers have it. Where there is
/// none, `between` is put there.
fn split(text: &str, choice: &str, between: &str) -> [String; 2] {
    let kept = text.trim_end();
    let space = &text[kept.len()..];
    let between = if space.is_empty() && !choice.starts_with(char::is_whitespace) { between } else { "" };
    [kept.to_owned(), format!("{space}{between}{choice}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_begins_with_the_space_before_it() {
        assert_eq!(split("a:", "b", " "), ["a:", " b"]);
        assert_eq!(split("a: ", "b", " "), ["a:", " b"]);
        assert_eq!(split("a:", "\tb", " "), ["a:", "\tb"]);
        assert_eq!(split("a\n", "b", ""), ["a", "\nb"]);
        assert_eq!(split("a>", "b", ""), ["a>", "b"]);
    }

    #[test]
    fn the_lengths_of_choices_are_characters_or_bytes() {
        let question = Question { line: 1, text: "q".into(), choices: vec!["ab".into(), "ääää".into()], right: 1 };
        // By sum -2 > -3.6; by characters -1 < -0.9; by bytes -1 < -0.45.
        let found = Choice::of(&question, vec![-2.0, -3.6]);
        assert_eq!((found.acc, found.acc_norm, found.acc_bytes), (false, true, true));
        // By characters -1 > -1.5; by bytes -1 < -0.75.
        let found = Choice::of(&question, vec![-2.0, -6.0]);
        assert_eq!((found.acc, found.acc_norm, found.acc_bytes), (false, false, true));
        assert_eq!(likeliest([-1.0, -1.0].into_iter()), 0);
    }
}
