//! `burnish eval`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use burnish_engine::{LossSums, Objective};
use burnish_models::Pretrained;
use serde_json::json;

use super::at_least;
use super::model::{Choice, ModelArgs};
use super::row_cache;
use crate::data::{BatchOptions, Batches, LengthPolicy, Preparation, RowTokenizer, RowUse, Sources};
use crate::report::{OutputStyle, RowsReport};
use crate::train::evaluate;

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A file of rows, a hub id, or a folder, of which test.jsonl is used, else valid.jsonl
    #[arg(short, long)]
    data: String,
    /// Maximum length of an example in tokens; longer ones are truncated
    #[arg(long, value_name = "N", default_value = "2048", value_parser = at_least::<2>)]
    max_seq_length: usize,
    /// Rows in a batch
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least::<1>)]
    batch_size: usize,
    /// Pack several examples into one row
    #[arg(long)]
    packing: bool,
    /// Include the prompts in the loss, not only the answers
    #[arg(long)]
    no_mask_prompt: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let pretrained = self.model.open()?;
        let sources = Sources::locate(&self.data)?;
        let Some(file) = sources.test.or(sources.valid).or(sources.train) else { bail!("{} has no rows", self.data) };
        let limit = self.max_seq_length.min(pretrained.config.max_position_embeddings);
        let row_tokenizer = RowTokenizer {
            tokenizer: &pretrained.tokenizer,
            template: pretrained.chat_template.as_ref(),
            mask_prompt: !self.no_mask_prompt,
            rows: RowUse::Answers,
            max_seq_length: limit,
            length_policy: LengthPolicy::Truncate,
            vocab_size: pretrained.config.vocab_size,
        };
        let (rows, cache) = (RowsReport::new(style), row_cache());
        let progress = |progress| rows.take(progress);
        let preparation = Preparation { cache: cache.as_ref(), progress: Some(&progress), ..Preparation::default() };
        let prepared = preparation.load(&file, &row_tokenizer)?;
        rows.finish();
        for line in prepared.report.lines() {
            style.say(format!("{}: {line}", file.display()));
        }
        let batches = Batches::new(
            prepared.examples,
            BatchOptions {
                batch_size: self.batch_size,
                max_seq_length: limit,
                packing: self.packing,
                padding_free: burnish_backends::attends_by_segment(&self.model.backend),
                shuffle_seed: None,
                preference_pairs: false,
                granule: 1,
                pad_token_id: pretrained.config.pad_token_id.unwrap_or(0),
            },
        );
        let Choice { dtype, storage } = self.model.choose(&pretrained, style)?;
        style.say(format!("dtype {} ({}), {}", dtype.dtype, dtype.why, storage.line()));
        let evaluation = burnish_backends::enter(&self.model.backend, |device| {
            let Pretrained { config, checkpoint, .. } = &pretrained;
            let mut runner = device.run(config, &**checkpoint, storage.options, self.model.adapter())?;
            evaluate(
                |batch| Ok(LossSums::of_tokens(runner.loss(batch)?, batch.target_tokens)),
                &batches,
                &Objective::Tokens,
                0,
                |done, all| {
                    if done % 20 == 0 {
                        style.say(format!("batch {done} of {all}"));
                    }
                },
            )
        })?;
        let perplexity = evaluation.perplexity.unwrap_or(f64::NAN);
        let line = format!("loss {:.4}, perplexity {perplexity:.3}, {} tokens", evaluation.loss, evaluation.tokens);
        style.result(line, &json!(evaluation));
        Ok(ExitCode::SUCCESS)
    }
}
