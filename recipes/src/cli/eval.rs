//! `burnish eval`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use burnish_backends::dtype;
use burnish_engine::Objective;
use burnish_models::Pretrained;
use serde_json::json;

use crate::data::{self, BadRows, BatchOptions, Batches, Preparation, Sources};
use crate::fit;
use crate::report::OutputStyle;
use crate::train::evaluate;

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or .gguf file.
    #[arg(short, long)]
    model: String,
    /// A PEFT folder.
    #[arg(short, long)]
    adapter: Option<PathBuf>,
    /// A .jsonl file, or a folder: its test rows, else its validation rows.
    #[arg(short, long)]
    data: String,
    /// Longer examples are cut.
    #[arg(long, default_value = "2048", value_parser = at_least::<2>)]
    max_seq_length: usize,
    /// Rows at a time.
    #[arg(long, default_value = "4", value_parser = at_least::<1>)]
    batch_size: usize,
    /// Put several examples into one row.
    #[arg(long)]
    packing: bool,
    /// Count prompts too.
    #[arg(long)]
    no_mask_prompt: bool,
    /// cpu, candle, wgpu, metal (macOS), vulkan (elsewhere), cuda, emulator or auto.
    #[arg(long, default_value = "auto", value_parser = burnish_backends::NAMES.to_vec())]
    backend: String,
    /// What is computed in: f32, f16, bf16, or auto, which takes what the device is best at.
    #[arg(long, default_value = "auto", value_parser = dtype::NAMES.to_vec())]
    dtype: String,
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (LEAST..=1_000_000_000).contains(&number) => Ok(number),
        _ => Err(format!("wanted is a whole number from {LEAST}")),
    }
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let pretrained = Pretrained::open(&self.model)?;
        let sources = Sources::locate(&self.data)?;
        let Some(file) = sources.test.or(sources.valid).or(sources.train) else { bail!("{} has no rows", self.data) };
        let limit = self.max_seq_length.min(pretrained.config.max_position_embeddings);
        let preparation = Preparation {
            tokenizer: &pretrained.tokenizer,
            template: pretrained.chat_template.as_ref(),
            mask_prompt: !self.no_mask_prompt,
            pairs: false,
            max_seq_length: limit,
            vocab_size: pretrained.config.vocab_size,
        };
        let prepared = data::load(&file, &preparation, BadRows::Stop)?;
        for line in prepared.report.lines() {
            style.say(format!("{}: {line}", file.display()));
        }
        let batches = Batches::new(
            prepared.examples,
            BatchOptions {
                batch_size: self.batch_size,
                max_seq_length: limit,
                packing: self.packing,
                shuffle_seed: None,
                pairs: false,
                pad_token_id: pretrained.config.pad_token_id.unwrap_or(0),
            },
        );
        let dtype = dtype::choose(&self.backend, &self.dtype)?;
        fit::check(&self.backend, &pretrained.config, dtype.dtype, false)?;
        style.say(format!("the model computes in {} ({})", dtype.dtype, dtype.why));
        let evaluation = burnish_backends::enter(&self.backend, |device| {
            let Pretrained { config, checkpoint, .. } = &pretrained;
            let mut runner = device.run(config, &**checkpoint, dtype.dtype, self.adapter.as_deref())?;
            evaluate(
                |batch| runner.loss(batch),
                &batches,
                &Objective::Tokens,
                0,
                |done, all| {
                    if done % 20 == 0 {
                        style.say(format!("{done} of {all} batches"));
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
