//! `burnish generate`.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use burnish_engine::Device;
use burnish_models::{Finish, GenerateOptions, Message, Pretrained};
use serde_json::json;

use super::model::{Choice, ModelArgs};
use super::sampling::SamplingArgs;
use crate::generation::Assistant;
use crate::report::{OutputStyle, print};

/// Arguments of `generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt to answer; `-` reads it from stdin
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// System message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    pub(super) fn run(mut self, style: OutputStyle) -> Result<ExitCode> {
        if self.prompt == "-" {
            self.prompt.clear();
            std::io::stdin().read_to_string(&mut self.prompt).context("stdin")?;
        }
        let options = self.sampling.options()?;
        let pretrained = self.model.open()?;
        let choice = self.model.choose(&pretrained, style)?;
        burnish_backends::enter(&self.model.backend, |device| self.answer(device, &options, pretrained, choice, style))
    }

    fn answer(
        &self,
        device: &dyn Device,
        options: &GenerateOptions,
        pretrained: Pretrained,
        Choice { dtype, storage }: Choice,
        style: OutputStyle,
    ) -> Result<ExitCode> {
        let mut assistant = Assistant::load(device, pretrained, self.model.adapter(), storage.options)?;
        let mut show = |text: &str| {
            if !style.json {
                print(text);
            }
        };
        let generated = if self.raw {
            assistant.complete(&self.prompt, options, &mut show)?
        } else {
            let mut messages: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
            messages.push(Message::new("user", &self.prompt));
            assistant.answer(&messages, options, &mut show)?
        };
        let rate = generated.tokens_per_second();
        let value = json!({
            "text": generated.text, "tokens": generated.tokens, "finish": format!("{:?}", generated.finish),
            "prompt_tokens": generated.prompt_tokens, "prompt_seconds": generated.prompt_time.as_secs_f64(),
            "tokens_per_second": rate,
        });
        style.result("", &value);
        let cut = if generated.finish == Finish::Length { ", stopped at --max-tokens" } else { "" };
        let rate = rate.map(|rate| format!(" at {rate:.1} tok/s")).unwrap_or_default();
        style.say(format!(
            "{} tokens{rate}{cut}; first token after {:.2} s for {} prompt tokens, compiling kernels included; {} ({}), {}",
            generated.tokens.len(),
            generated.prompt_time.as_secs_f64(),
            generated.prompt_tokens,
            dtype.dtype,
            dtype.why,
            storage.line()
        ));
        Ok(ExitCode::SUCCESS)
    }
}
