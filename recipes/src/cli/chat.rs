//! `burnish chat`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use burnish_engine::Device;
use burnish_models::{GenerateOptions, Message, ModelError, Pretrained};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::model::{Choice, ModelArgs};
use super::sampling::SamplingArgs;
use crate::generation::Assistant;
use crate::report::{OutputStyle, complain, print};

const HELP: &str = "type a message; /undo removes the last turn, /reset starts a new conversation, /quit or Ctrl-D exits";

/// Arguments of `chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let options = self.sampling.options()?;
        let pretrained = self.model.open()?;
        if pretrained.chat_template.is_none() {
            return Err(ModelError::NoTemplate.into());
        }
        let choice = self.model.choose(&pretrained, style)?;
        burnish_backends::enter(&self.model.backend, |device| self.talk(device, &options, pretrained, choice, style))
    }

    fn talk(
        &self,
        device: &dyn Device,
        options: &GenerateOptions,
        pretrained: Pretrained,
        Choice { dtype, storage }: Choice,
        style: OutputStyle,
    ) -> Result<ExitCode> {
        let mut assistant = Assistant::load(device, pretrained, self.model.adapter(), storage.options)?;
        let system: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = system.clone();
        let mut editor = DefaultEditor::new()?;
        style.say(format!("dtype {} ({}), {}", dtype.dtype, dtype.why, storage.line()));
        style.say(HELP);
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error).context("the messages on standard input can't be read"),
            };
            match line.trim() {
                "" => continue,
                "/quit" | "/exit" => return Ok(ExitCode::SUCCESS),
                "/reset" => {
                    messages.clone_from(&system);
                    style.say("started a new conversation");
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
                // A message may begin with a path, which has a second slash or a space.
                word if word.starts_with('/') && !word[1..].contains(['/', ' ']) => {
                    complain(format!("unknown command {word}; {HELP}"));
                    continue;
                }
                _ => {}
            }
            editor.add_history_entry(&line).ok();
            messages.push(Message::new("user", line));
            let answer = assistant.answer(&messages, options, &mut |text| {
                print(text);
            });
            print("\n");
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
