//! `burnish eval`.

mod compare;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use burnish_engine::{LossSums, Objective, with_hint};
use burnish_models::Pretrained;
use clap::builder::ArgPredicate;
use serde_json::json;

use super::at_least;
use super::model::{Choice, ModelArgs};
use super::row_cache;
use crate::data::{self, BatchOptions, Batches, LengthPolicy, Preparation, RowTokenizer, RowUse, Sources};
use crate::evaluation::compare::{Comparison, Measures};
use crate::evaluation::task::{Task, TaskTokens};
use crate::report::{OutputStyle, RowsReport};
use crate::train::{Evaluation, evaluate};

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| {
    // The base of a comparison is the model.
    model.required(false).required_unless_present("compare").conflicts_with("compare")
        .default_value_if("compare", ArgPredicate::IsPresent, "")
}))]
#[command(mut_arg("adapter", |adapter| adapter.conflicts_with("compare")))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows to score: a file, a hub id, or a folder (its test.jsonl, or else valid.jsonl)
    #[arg(short, long, required_unless_present = "task")]
    data: Option<String>,
    /// Maximum length of an example in tokens; longer ones are truncated
    #[arg(long, value_name = "N", default_value = "2048", value_parser = at_least::<2>)]
    max_seq_length: usize,
    /// Rows in a batch
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least::<1>)]
    batch_size: usize,
    /// Pack several examples into one row
    #[arg(long, conflicts_with = "compare")]
    packing: bool,
    /// Include the prompts in the loss, not only the answers
    #[arg(long)]
    no_mask_prompt: bool,
    /// A JSON file of multiple-choice questions, scored by the log-likelihood of each choice
    #[arg(long, value_name = "FILE")]
    task: Option<PathBuf>,
    /// Ask the questions of --task as chat messages, with the model's chat template
    #[arg(long, requires = "task")]
    apply_chat_template: bool,
    /// Compare adapters, run folders or other models with a base model
    #[arg(long, num_args = 2.., value_names = ["BASE", "ADAPTER"], help_heading = "Comparison")]
    compare: Vec<String>,
    /// Number of prompts that every model answers; 0 is off
    #[arg(long, value_name = "N", default_value = "8", conflicts_with = "model", help_heading = "Comparison", value_parser = at_least::<0>)]
    answers: usize,
    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "N", default_value = "256", conflicts_with = "model", help_heading = "Comparison", value_parser = at_least::<1>)]
    max_tokens: usize,
    /// How many times the rows are resampled for the intervals
    #[arg(long, value_name = "N", default_value = "10000", help_heading = "Comparison", value_parser = at_least::<100>)]
    resamples: usize,
    /// Random seed of the resampling
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Comparison")]
    seed: u64,
}

impl Args {
    pub(super) fn run(mut self, style: OutputStyle) -> Result<ExitCode> {
        let mut compared = std::mem::take(&mut self.compare).into_iter();
        if let Some(base) = compared.next() {
            self.model.set_model(base);
            return self.compare(&compared.collect::<Vec<_>>(), style);
        }
        let pretrained = self.model.open()?;
        let limit = self.limit(&pretrained);
        let options = self.batch_options(&pretrained, limit);
        let batches = match self.file()? {
            Some(file) => {
                let row_tokenizer = self.row_tokenizer(&pretrained, limit);
                let prepared = with_preparation(style, |preparation| Ok(preparation.load(&file, &row_tokenizer)?))?;
                for line in prepared.report.lines() {
                    style.say(format!("{}: {line}", file.display()));
                }
                if let Some(warning) = prepared.report.warning() {
                    style.say(format!("warning: {}: {warning}", file.display()));
                }
                Some(Batches::new(prepared.examples, options))
            }
            None => None,
        };
        let task = self.task()?;
        let questions = self.questions(task.as_ref(), &pretrained, style)?;
        let Choice { dtype, storage } = self.model.choose(&pretrained, style)?;
        style.say(format!("dtype {} ({}), {}", dtype.dtype, dtype.why, storage.line()));
        let measures = Measures { rows: None, prompts: &[], task: task.as_ref() };
        let (evaluation, measured) = burnish_backends::enter(&self.model.backend, |device| {
            let Pretrained { config, checkpoint, .. } = &pretrained;
            let mut runner = device.run(config, &**checkpoint, storage.options, self.model.adapter())?;
            let mut loss_of = |batch: &data::Batch| Ok(LossSums::of_tokens(runner.loss(batch)?, batch.target_tokens));
            let on_batch = |done: usize, all| {
                if done.is_multiple_of(20) {
                    style.say(format!("batch {done} of {all}"));
                }
            };
            let evaluation = batches
                .as_ref()
                .map(|batches| evaluate(&mut loss_of, batches, &Objective::Tokens, 0, on_batch))
                .transpose()?;
            let of_task = |questions| measures.of(&mut *runner, &pretrained, Some(questions), &mut |line| style.say(line));
            Ok((evaluation, questions.as_ref().map(of_task).transpose()?))
        })?;
        let mut value = evaluation.map_or_else(|| json!({}), |evaluation| json!(evaluation));
        let mut lines: Vec<String> = evaluation.as_ref().map(line).into_iter().collect();
        if let Some(mut measured) = measured {
            measured.name =
                self.model.adapter().map_or_else(|| pretrained.source.clone(), |path| path.display().to_string());
            let scored = Comparison::of(&measures, &[measured], self.bootstrap());
            value["task"] = json!({ "file": scored.task, "scores": scored.models.first(), "questions": scored.questions });
            lines.extend(scored.lines());
        }
        style.result(lines.join("\n"), &value);
        Ok(ExitCode::SUCCESS)
    }

    /// The file of rows, if there is one.
    fn file(&self) -> Result<Option<PathBuf>> {
        let Some(data) = &self.data else { return Ok(None) };
        let sources = Sources::locate(data)?;
        match sources.test.or(sources.valid).or(sources.train) {
            Some(file) => Ok(Some(file)),
            None => bail!("{data} has no rows"),
        }
    }

    fn task(&self) -> Result<Option<Task>> {
        let Some(file) = &self.task else { return Ok(None) };
        if file.is_dir() {
            return Err(with_hint(format!("{} is a folder", file.display()), "--task takes a file of questions"));
        }
        Task::read(file.clone(), self.apply_chat_template).map(Some)
    }

    /// The tokens of the task.
    fn questions(&self, task: Option<&Task>, model: &Pretrained, style: OutputStyle) -> Result<Option<TaskTokens>> {
        let Some(task) = task else { return Ok(None) };
        let limit = self.limit(model);
        let tokens = task.tokens(model, self.batch_options(model, limit))?;
        if tokens.cut > 0 {
            style.say(format!(
                "{}: choices whose question is cut off at {limit} tokens: {}",
                task.file.display(),
                tokens.cut
            ));
        }
        Ok(Some(tokens))
    }

    /// The most tokens of an example.
    fn limit(&self, model: &Pretrained) -> usize {
        self.max_seq_length.min(model.config.max_position_embeddings)
    }

    fn row_tokenizer<'a>(&self, model: &'a Pretrained, limit: usize) -> RowTokenizer<'a> {
        RowTokenizer {
            tokenizer: &model.tokenizer,
            template: model.chat_template.as_ref(),
            mask_prompt: !self.no_mask_prompt,
            rows: RowUse::Answers,
            max_seq_length: limit,
            length_policy: LengthPolicy::Truncate,
            vocab_size: model.config.vocab_size,
        }
    }

    fn batch_options(&self, model: &Pretrained, limit: usize) -> BatchOptions {
        BatchOptions {
            batch_size: self.batch_size,
            max_seq_length: limit,
            packing: self.packing,
            padding_free: burnish_backends::attends_by_segment(&self.model.backend),
            shuffle_seed: None,
            preference_pairs: false,
            granule: 1,
            pad_token_id: model.config.pad_token_id.unwrap_or(0),
        }
    }
}

/// Prepares rows with a report on that, and keeps them for the next run.
fn with_preparation<T>(style: OutputStyle, prepare: impl FnOnce(&Preparation<'_>) -> Result<T>) -> Result<T> {
    let (rows, cache) = (RowsReport::new(style), row_cache());
    let progress = |progress| rows.take(progress);
    let prepared = prepare(&Preparation { cache: cache.as_ref(), progress: Some(&progress), ..Preparation::default() })?;
    rows.finish();
    Ok(prepared)
}

fn line(evaluation: &Evaluation) -> String {
    let perplexity = evaluation.perplexity.unwrap_or(f64::NAN);
    format!("loss {:.4}, perplexity {perplexity:.3}, {} tokens", evaluation.loss, evaluation.tokens)
}
