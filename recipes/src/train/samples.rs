//! `samples.jsonl`: answers to validation prompts before and after training.

use std::path::Path;

use anyhow::Result;
use burnish_engine::{Device, Runner};
use burnish_models::{LoadOptions, Pretrained, atomic};
use serde::{Deserialize, Serialize};

use crate::config::{FineTuneType, TrainConfig};
use crate::data::{Batches, Example};
use crate::evaluation::answer::{AnswerOptions, Prompt, answers, is_same, prompts};

/// The name of the file.
pub const SAMPLES: &str = "samples.jsonl";

/// The most tokens of an answer.
const MAX_TOKENS: usize = 256;

/// A prompt with answers: one line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The answer of the validation row.
    pub expected: String,
    /// The model's answer before training.
    pub before: String,
    /// Its answer after training.
    pub after: String,
    /// Whether the answer before training is the expected one.
    pub right_before: bool,
    /// Whether the answer after training is.
    pub right_after: bool,
}

/// Answers prompts of the validation rows by the model as it was at the start of the run and by its result, and writes the file.
/// Returns the number of prompts.
///
/// # Errors
/// When a model can't be loaded, the device fails, or the file can't be written.
pub fn record(
    device: &dyn Device,
    config: &TrainConfig,
    pretrained: &Pretrained,
    options: LoadOptions,
    valid: &Batches,
    result: &Path,
) -> Result<usize> {
    let context = pretrained.config.max_position_embeddings;
    let asked = AnswerOptions { count: config.samples, max_tokens: MAX_TOKENS, context, limit: valid.max_seq_length() };
    let is_wanted = |index: usize, example: &Example| {
        // Of a pair, the first example is the chosen answer.
        example.desirable && (!config.recipe.has_pairs() || index.is_multiple_of(2))
    };
    let prompts = prompts(valid.examples(), is_wanted, &pretrained.tokenizer, asked)?;
    let ask = |model: &Pretrained, runner: &mut dyn Runner| {
        answers(runner, &model.tokenizer, &model.config.eos_token_id, &prompts)
    };
    let load = |model: &Pretrained, options| device.run(&model.config, &*model.checkpoint, options, None);
    let (before, after) = if config.fine_tune_type == FineTuneType::Full {
        let before = ask(pretrained, &mut *load(pretrained, options)?)?;
        let trained = Pretrained::open(result)?;
        (before, ask(pretrained, &mut *load(&trained, options)?)?)
    } else {
        let mut base = load(pretrained, options)?;
        let before = match &config.adapter {
            Some(start) => ask(pretrained, &mut *base.with_adapter(Path::new(start))?)?,
            None => ask(pretrained, &mut *base)?,
        };
        (before, ask(pretrained, &mut *base.with_adapter(result)?)?)
    };
    let sample = |((prompt, before), after): ((&Prompt, String), String)| Sample {
        right_before: is_same(&prompt.expected, &before),
        right_after: is_same(&prompt.expected, &after),
        prompt: prompt.text.clone(),
        expected: prompt.expected.clone(),
        before,
        after,
    };
    let lines: Vec<String> = prompts
        .iter()
        .zip(before)
        .zip(after)
        .map(|answers| serde_json::to_string(&sample(answers)).map(|line| line + "\n"))
        .collect::<Result<_, _>>()?;
    atomic::write_bytes(&Path::new(&config.output_dir).join(SAMPLES), lines.concat().as_bytes())?;
    Ok(lines.len())
}
