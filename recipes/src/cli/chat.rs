//! `burnish chat`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use burnish_backends::dtype::{self, DtypeChoice};
use burnish_engine::Device;
use burnish_models::{GenerateOptions, Message, ModelError, Pretrained};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::SamplingArgs;
use crate::fit;
use crate::generation::Assistant;
use crate::report::{OutputStyle, complain};

const HELP: &str = "type a message; /reset starts over, /undo takes the last turn back, /quit or Ctrl-D ends";

/// Arguments of `chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder, hub id, or .gguf file.
    #[arg(short, long)]
    model: String,
    /// A PEFT folder.
    #[arg(short, long)]
    adapter: Option<PathBuf>,
    /// A system message.
    #[arg(long, allow_hyphen_values = true)]
    system: Option<String>,
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
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let options = self.sampling.options()?;
        let pretrained = Pretrained::open(&self.model)?;
        if pretrained.chat_template.is_none() {
            return Err(ModelError::NoTemplate.into());
        }
        let dtype = dtype::choose(&self.backend, &self.dtype)?;
        fit::check(&self.backend, &pretrained.config, dtype.dtype, false)?;
        burnish_backends::enter(&self.backend, |device| self.talk(device, &options, pretrained, dtype, style))
    }

    fn talk(
        &self,
        device: &dyn Device,
        options: &GenerateOptions,
        pretrained: Pretrained,
        dtype: DtypeChoice,
        style: OutputStyle,
    ) -> Result<ExitCode> {
        let mut assistant = Assistant::load(device, pretrained, self.adapter.as_deref(), dtype.dtype)?;
        let system: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = system.clone();
        let mut editor = DefaultEditor::new()?;
        style.say(format!("the model computes in {} ({})", dtype.dtype, dtype.why));
        style.say(HELP);
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error.into()),
            };
            match line.trim() {
                "" => continue,
                "/quit" | "/exit" => return Ok(ExitCode::SUCCESS),
                "/reset" => {
                    messages.clone_from(&system);
                    style.say("a new conversation");
                    continue;
                }
                "/undo" => {
                    messages.truncate(messages.len().saturating_sub(2).max(system.len()));
                    continue;
                }
                "/help" => {
                    style.say(HELP);
                    continue;
                }
                // A path is a word with a slash too, but more than the first letter of it.
                word if word.starts_with('/') && !word[1..].contains(['/', ' ']) => {
                    complain(format!("no such command: {word}; {HELP}"));
                    continue;
                }
                _ => {}
            }
            editor.add_history_entry(&line).ok();
            messages.push(Message::new("user", line));
            let answer = assistant.answer(&messages, options, &mut |text| {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
            });
            writeln!(std::io::stdout().lock()).ok();
            match answer {
                Ok(answer) => messages.push(Message::new("assistant", answer.text)),
                Err(error) => {
                    complain(format!("error: {error:#}"));
                    messages.pop();
                }
            }
        }
    }
}
