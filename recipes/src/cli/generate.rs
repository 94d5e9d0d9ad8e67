//! `burnish generate`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burnish_backends::dtype::{self, DtypeChoice};
use burnish_engine::Device;
use burnish_models::{Finish, GenerateOptions, Message, Pretrained, SamplingOptions};
use serde_json::json;

use crate::fit;
use crate::generation::Assistant;
use crate::report::OutputStyle;

/// How tokens are chosen, for `generate` and `chat`.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplingArgs {
    /// Tokens to make at most.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Only so many of the most likely tokens; 0 is off.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only the most likely tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Only tokens at least this fraction as likely as the most likely one.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Above 1, tokens seen before become less likely.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// A string that ends the answer; may be given several times.
    #[arg(long, allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// Checks ranges.
    ///
    /// # Errors
    /// A sentence with the flag and its value.
    pub fn options(&self) -> Result<GenerateOptions> {
        let within = |name: &str, value: f32, low: f32, high: f32| {
            if !(low..=high).contains(&value) {
                bail!("--{name} is {value}, not within {low} and {high}");
            }
            Ok(())
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top-p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        within("min-p", self.min_p, 0.0, 1.0)?;
        within("repetition-penalty", self.repetition_penalty, 0.01, 100.0)?;
        Ok(GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: SamplingOptions {
                repetition_penalty: self.repetition_penalty,
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed,
            },
            end_tokens: Vec::new(),
            stop: self.stop.clone(),
        })
    }
}

/// Arguments of `generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or .gguf file.
    #[arg(short, long)]
    model: String,
    /// A PEFT folder.
    #[arg(short, long)]
    adapter: Option<PathBuf>,
    /// What to answer; `-` reads it from stdin.
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: String,
    /// A system message.
    #[arg(long, allow_hyphen_values = true)]
    system: Option<String>,
    /// Continue the prompt as plain text, without the chat template.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// cpu, candle, wgpu, metal (macOS), vulkan (elsewhere), cuda, emulator or auto.
    #[arg(long, default_value = "auto", value_parser = burnish_backends::NAMES.to_vec())]
    backend: String,
    /// What is computed in: f32, f16, bf16, or auto, which takes what the device is best at.
    #[arg(long, default_value = "auto", value_parser = dtype::NAMES.to_vec())]
    dtype: String,
}

impl Args {
    pub(super) fn run(mut self, style: OutputStyle) -> Result<ExitCode> {
        if self.prompt == "-" {
            self.prompt.clear();
            std::io::stdin().read_to_string(&mut self.prompt).context("stdin")?;
        }
        let options = self.sampling.options()?;
        let pretrained = Pretrained::open(&self.model)?;
        let dtype = dtype::choose(&self.backend, &self.dtype)?;
        fit::check(&self.backend, &pretrained.config, dtype.dtype, false)?;
        burnish_backends::enter(&self.backend, |device| self.answer(device, &options, pretrained, dtype, style))
    }

    fn answer(
        &self,
        device: &dyn Device,
        options: &GenerateOptions,
        pretrained: Pretrained,
        dtype: DtypeChoice,
        style: OutputStyle,
    ) -> Result<ExitCode> {
        let mut assistant = Assistant::load(device, pretrained, self.adapter.as_deref(), dtype.dtype)?;
        let mut print = |text: &str| {
            if !style.json {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
            }
        };
        let generated = if self.raw {
            assistant.complete(&self.prompt, options, &mut print)?
        } else {
            let mut messages: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
            messages.push(Message::new("user", &self.prompt));
            assistant.answer(&messages, options, &mut print)?
        };
        let rate = generated.tokens_per_second();
        let value = json!({
            "text": generated.text, "tokens": generated.tokens, "finish": format!("{:?}", generated.finish),
            "prompt_tokens": generated.prompt_tokens, "prompt_seconds": generated.prompt_time.as_secs_f64(),
            "tokens_per_second": rate,
        });
        style.result("", &value);
        let cut = if generated.finish == Finish::Length { ", cut at --max-tokens" } else { "" };
        let rate = rate.map(|rate| format!(" at {rate:.1} tok/s")).unwrap_or_default();
        style.say(format!(
            "{} tokens{rate}{cut}; the first after {:.2} s, in which {} tokens of prompt were read and kernels compiled; {} ({})",
            generated.tokens.len(),
            generated.prompt_time.as_secs_f64(),
            generated.prompt_tokens,
            dtype.dtype,
            dtype.why
        ));
        Ok(ExitCode::SUCCESS)
    }
}
