//! The command line. Data goes to stdout, progress and logs to stderr.

mod chat;
mod eval;
mod export;
mod flags;
mod generate;
mod init;
mod merge;
mod quickstart;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::hint::hint;
use crate::report::OutputStyle;

/// Fine-tune language models, in Rust.
#[derive(Debug, Parser)]
#[command(name = "burnish", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Print results as JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
    /// Print errors only.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fine-tune the tiny model that comes with the program, and see what changed.
    Quickstart(quickstart::Args),
    /// Fine-tune a model, or train one from scratch.
    Train(train::Args),
    /// Loss and perplexity of a model on a data set.
    Eval(eval::Args),
    /// Answer one prompt.
    Generate(generate::Args),
    /// Talk to a model.
    Chat(chat::Args),
    /// Write a model with its adapter added in, as a Hugging Face folder.
    Merge(merge::Args),
    /// Write a model as a Hugging Face folder, a PEFT folder or a GGUF file.
    Export(export::Args),
    /// Write a configuration file with every key explained.
    Init(init::Args),
}

/// Runs the program: exit code 0 is success, 1 failure, 2 a wrong call.
pub fn main() -> ExitCode {
    quiet_panics();
    let parsed = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let style = OutputStyle { json: cli.json, quiet: cli.quiet };
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dispatch(cli.command, style)));
    match run {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("error: {}", chain(&error));
            if let Some(hint) = hint(&error) {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("hint: this is a fault of burnish; what it printed above belongs into a report");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, style: OutputStyle) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(args) => args.run(style),
        Command::Train(args) => args.run(style),
        Command::Eval(args) => args.run(style),
        Command::Generate(args) => args.run(style),
        Command::Chat(args) => args.run(style),
        Command::Merge(args) => args.run(style),
        Command::Export(args) => args.run(style),
        Command::Init(args) => args.run(style),
    }
}

/// The causes of an error in one line; what a cause repeats of its parent is said once.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A panic is a fault of ours: one line, no backtrace unless asked for.
fn quiet_panics() {
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        return;
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        let payload = info.payload();
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        eprintln!("error: internal: {message}{place}");
    }));
}
