//! Answers to the prompts of held-out rows.

use anyhow::Result;
use burnish_engine::Runner;
use burnish_models::{GenerateOptions, Tokenizer};
use serde_json::Value;

use crate::data::{Example, Examples, IGNORE};

/// The most tokens that an answer may have beyond the expected one, since a longer one can't be right.
const BEYOND: usize = 32;

/// A prompt with its expected answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its place among the examples.
    pub example: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its text, without special tokens.
    pub text: String,
    /// The expected answer, without special tokens and surrounding space.
    pub expected: String,
    /// The most tokens that are generated.
    pub max_tokens: usize,
}

/// How answers are generated: by the most likely token, the same for every model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerOptions {
    /// The number of prompts that are answered.
    pub count: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// The longest prompt with its answer that the model reads.
    pub context: usize,
    /// The length at which rows were truncated.
    pub limit: usize,
}

/// Prompts that are spread evenly over the wanted examples. An example has one if its last learned part is complete and has a text before
/// it.
///
/// # Errors
/// When the tokenizer can't decode.
pub fn prompts(
    examples: &Examples,
    is_wanted: impl Fn(usize, &Example) -> bool,
    tokenizer: &Tokenizer,
    options: AnswerOptions,
) -> Result<Vec<Prompt>> {
    let fits = |(_, range): &(usize, std::ops::Range<usize>)| range.end < options.context;
    let asked = |index: usize| {
        let example = examples.get(index);
        let answer = is_wanted(index, &example).then(|| last_answer(&example, options.limit))??;
        Some((index, answer))
    };
    let all: Vec<_> = (0..examples.len()).filter_map(asked).filter(fits).collect();
    let count = options.count.min(all.len());
    let chosen = (0..count).map(|number| &all[number * all.len() / count]);
    chosen
        .map(|(example, answer)| {
            let chosen = examples.get(*example);
            let ids = &chosen.input_ids;
            let room = options.context - answer.start;
            Ok(Prompt {
                example: *example,
                tokens: ids[..answer.start].to_vec(),
                text: tokenizer.decode(&ids[..answer.start], true)?.trim().to_owned(),
                expected: tokenizer.decode(&ids[answer.clone()], true)?.trim().to_owned(),
                max_tokens: (answer.len() + BEYOND).min(options.max_tokens).min(room),
            })
        })
        .collect()
}

/// The tokens of the last answer of an example; `None` if it may be truncated, or no text precedes it.
fn last_answer(example: &Example, limit: usize) -> Option<std::ops::Range<usize>> {
    let is_learned = |index: &usize| example.labels[*index] != IGNORE;
    let last = (0..example.labels.len()).rev().find(is_learned)?;
    let start = (0..last).rev().find(|index| !is_learned(index))? + 1;
    // One token is only the start of the text.
    (start > 1 && example.input_ids.len() < limit).then_some(start..last + 1)
}

/// Answers every prompt.
///
/// # Errors
/// When the device fails, or the tokenizer can't decode.
pub fn answers(
    runner: &mut dyn Runner,
    tokenizer: &Tokenizer,
    end_tokens: &[u32],
    prompts: &[Prompt],
) -> Result<Vec<String>> {
    let answer = |prompt: &Prompt| {
        let options =
            GenerateOptions { max_tokens: prompt.max_tokens, end_tokens: end_tokens.to_vec(), ..GenerateOptions::default() };
        let generated = runner.generate(tokenizer, 0, &prompt.tokens, &options, &mut |_| {})?;
        Ok(generated.text.trim().to_owned())
    };
    prompts.iter().map(answer).collect()
}

/// Whether two answers are the same: as JSON values if both are JSON, else as texts without surrounding space.
pub fn is_same(one: &str, other: &str) -> bool {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    one.trim() == other.trim() || matches!((value(one), value(other)), (Some(one), Some(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(labels: &[i64]) -> Example {
        Example { input_ids: vec![5; labels.len()], labels: labels.to_vec(), desirable: true }
    }

    #[test]
    fn the_last_answer_follows_a_prompt_and_is_complete() {
        let of = |labels: &[i64]| last_answer(&example(labels), 8);
        assert_eq!(of(&[IGNORE, IGNORE, 1, 1]), Some(2..4));
        assert_eq!(of(&[IGNORE, IGNORE, 1, IGNORE, 1, IGNORE]), Some(4..5));
        // A text that is learned as a whole, with and without a start token, and one that fills its row.
        assert_eq!((of(&[1, 1, 1]), of(&[IGNORE, 1, 1]), of(&[IGNORE; 3])), (None, None, None));
        assert_eq!(of(&[IGNORE, IGNORE, IGNORE, IGNORE, 1, 1, 1, 1]), None);
    }

    #[test]
    fn answers_are_compared_as_json_where_both_are() {
        assert!(is_same(r#"{"a": 1, "b": [2]}"#, " {\"b\":[2],\"a\":1}\n"));
        assert!(is_same("yes ", "yes") && is_same("{broken", "{broken"));
        for (one, other) in [("yes", "Yes"), (r#"{"a": 1}"#, r#"{"a": 2}"#), (r#"{"a": 1}"#, "a: 1"), ("", "{}")] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }
}
