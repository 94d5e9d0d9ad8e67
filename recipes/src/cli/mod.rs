//! The command line. Data goes to stdout, progress and logs to stderr.

mod bench;
mod change;
mod chat;
mod completions;
mod data;
mod env;
mod environment;
mod eval;
mod export;
mod flags;
mod generate;
mod imatrix;
mod init;
mod leave;
mod man;
mod merge;
mod model;
mod panics;
mod plan;
mod push;
mod quantization;
mod quantize;
mod quickstart;
mod report;
mod sampling;
mod shard_size;
mod train;
mod tune;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use burnish_engine::guard::message;
use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;
use crate::data::RowCache;
use crate::hint::{hint, hint_of_run};
use crate::report::{OutputStyle, complain, failure};
use crate::system::repairs;

/// Fine-tune language models, in Rust
#[derive(Debug, Parser)]
#[command(name = "burnish", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Print results as JSON, one object per line
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Print only errors
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
    /// Print more; -vv prints everything. BURNISH_LOG, or RUST_LOG, filters by module
    #[arg(short, long, global = true, help_heading = "Output", action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Refuses flags that have no effect on what was asked for.
    fn checked(self) -> Result<Self, clap::Error> {
        let misuse = if let Command::Export(args) = &self.command { args.misuse() } else { None };
        misuse.map_or(Ok(self), |reason| Err(Self::command().error(ErrorKind::ArgumentConflict, reason)))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fine-tune the built-in tiny model, and compare before and after
    Quickstart(quickstart::Args),
    /// Fine-tune a model, or train one from scratch
    Train(train::Args),
    /// Say how much memory a run would take, and what would fit, without loading the model
    Plan(plan::Args),
    /// Show the rows of a data set as tokens, their lengths, and what is odd about them
    Data(data::Args),
    /// Compute loss and perplexity on a data set, score multiple-choice questions, compare adapters with their base
    Eval(eval::Args),
    /// Write a page about runs: curves, figures, answers, settings
    Report(report::Args),
    /// Answer one prompt
    Generate(generate::Args),
    /// Chat with a model
    Chat(chat::Args),
    /// Merge an adapter into its model, as a Hugging Face folder
    Merge(merge::Args),
    /// Write a model, or an adapter alone, for other programs: transformers, PEFT, llama.cpp, Ollama, mlx-lm
    Export(export::Args),
    /// Write a model as a GGUF file in few bits, with llama.cpp's mixtures of types
    Quantize(quantize::Args),
    /// Upload a folder or a GGUF file to the Hugging Face hub
    Push(push::Args),
    /// Measure which inputs of each matrix matter on your rows, for --imatrix of `quantize` and `export`
    Imatrix(imatrix::Args),
    /// Compare the speed and memory of backends and kernels
    Bench(bench::Args),
    /// Measure which way to compute a model's matrix products is the fastest on this device, and keep it for later runs
    Tune(tune::Args),
    /// Write a commented configuration file for `train`
    Init(init::Args),
    /// Describe this machine for an issue, without paths and names; -v also tests every backend
    Env(env::Args),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::Args),
    /// Write the manual pages
    Man(man::Args),
    /// Test this machine: kernels, model loading, GGUF export, training; about a minute without --full
    Verify(verify::Args),
}

/// Runs the program. Exit code 0 is success, 1 failure, 2 wrong usage.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs `burnish bench` without naming the command.
pub fn bench_main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    run([program, "bench".into()].into_iter().chain(arguments))
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    panics::print_briefly();
    relax_watchdog();
    let (arguments, notes) = environment::arguments(arguments.collect(), &Cli::command(), environment::variable);
    let parsed =
        Cli::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)?.checked());
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let louder = environment::verbose(environment::variable).filter(|_| !cli.quiet && cli.verbose == 0);
    let cli = Cli { verbose: if louder.is_some() { 1 } else { cli.verbose }, ..cli };
    if let Err(reason) = log(cli.verbose, cli.quiet) {
        complain(format!("error: {reason}"));
        return ExitCode::from(2);
    }
    match repairs::checked() {
        Ok(skipped) if !skipped.is_empty() => {
            complain(format!("BURNISH_SKIP_REPAIR: Metal code is compiled without these repairs: {}", skipped.join(", ")));
        }
        Ok(_) => {}
        Err(reason) => {
            complain(format!("error: {reason}"));
            return ExitCode::from(2);
        }
    }
    if let Some(folder) = dirs::cache_dir() {
        burnish_backends::keep_kernels(folder.join("burnish").join("kernels"));
        crate::tune::keep_in(folder.join("burnish").join("products"));
    }
    let style = OutputStyle { json: cli.json, quiet: cli.quiet };
    notes.iter().chain(&louder).for_each(|note| style.say(note));
    let (verbose, is_run) = (cli.verbose > 0, matches!(cli.command, Command::Train(_) | Command::Quickstart(_)));
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dispatch(cli.command, verbose, style)));
    if matches!(run, Ok(Ok(_))) {
        burnish_backends::publish_kernels();
    }
    burnish_backends::close_kernels();
    match run {
        Ok(Ok(code)) => match failure() {
            Some(error) => {
                complain(format!("error: the result can't be written to standard output: {error}"));
                ExitCode::FAILURE
            }
            None => code,
        },
        Ok(Err(error)) => {
            complain(format!("error: {}", chain(&error, verbose)));
            let hint = if is_run { hint_of_run(&error) } else { hint(&error) };
            if let Some(hint) = hint {
                complain(format!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
        Err(payload) => {
            panics::explain(message(&*payload), is_run);
            ExitCode::FAILURE
        }
    }
}

/// Where prepared rows are kept, if the user has a cache folder.
fn row_cache() -> Option<RowCache> {
    Some(RowCache::new(dirs::cache_dir()?.join("burnish").join("rows")))
}

/// Parses a count of at least `LEAST`.
fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (LEAST..=1_000_000_000).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number, {LEAST} or more")),
    }
}

/// Asks macOS not to end long work of the GPU while it also draws a screen; it kills such programs otherwise. A value that the user set
/// stays.
fn relax_watchdog() {
    #[cfg(target_os = "macos")]
    if std::env::var_os("AGX_RELAX_CDM_CTXSTORE_TIMEOUT").is_none() {
        // SAFETY: nothing has started another thread yet.
        unsafe { std::env::set_var("AGX_RELAX_CDM_CTXSTORE_TIMEOUT", "1") };
    }
}

fn dispatch(command: Command, verbose: bool, style: OutputStyle) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(args) => args.run(style),
        Command::Train(args) => args.run(style),
        Command::Plan(args) => args.run(style),
        Command::Data(args) => args.run(style),
        Command::Eval(args) => args.run(style),
        Command::Report(args) => args.run(style),
        Command::Generate(args) => args.run(style),
        Command::Chat(args) => args.run(style),
        Command::Merge(args) => args.run(style),
        Command::Export(args) => args.run(style),
        Command::Quantize(args) => args.run(style),
        Command::Push(args) => args.run(style),
        Command::Imatrix(args) => args.run(style),
        Command::Bench(args) => args.run(style),
        Command::Tune(args) => args.run(style),
        Command::Init(args) => args.run(style),
        Command::Env(args) => args.run(verbose, style),
        Command::Completions(args) => args.run(&Cli::command()),
        Command::Man(args) => args.run(Cli::command(), style),
        Command::Verify(args) => args.run(verbose, style),
    }
}

/// An error and its causes in one line, without repetitions. A list of tensors is cut, unless `whole`.
fn chain(error: &anyhow::Error, whole: bool) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let is_whole = whole || cause.is::<ConfigError>();
        let cause = if is_whole { cause.to_string() } else { cut(&cause.to_string()) };
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The most lines of a list in an error.
const LISTED: usize = 3;

/// The text with no more than the first lines of the list at its end.
fn cut(text: &str) -> String {
    let Some((title, list)) = text.split_once("\n  ") else { return text.to_owned() };
    let lines: Vec<&str> = list.split("\n  ").collect();
    // One line more takes no more room than the number of those that are left out.
    if lines.len() <= LISTED + 1 {
        return text.to_owned();
    }
    let (shown, rest) = lines.split_at(LISTED);
    format!("{title}\n  {}\n  and {} more (-v shows all)", shown.join("\n  "), rest.len())
}

/// Sends the libraries' logs to stderr: warnings, unless `--quiet`, and more with `--verbose`, `BURNISH_LOG` or `RUST_LOG`.
///
/// # Errors
/// If `BURNISH_LOG` is no filter.
fn log(verbose: u8, quiet: bool) -> Result<(), String> {
    let own = environment::variable(environment::LOG);
    let asked = own.is_some() || std::env::var_os("RUST_LOG").is_some();
    let filter = match verbose {
        _ if asked => match own {
            Some(own) => EnvFilter::try_new(&own).map_err(|error| {
                format!("{} = {own}: {error}; expected such as `info`, or `burnish_recipes=debug`", environment::LOG)
            })?,
            None => EnvFilter::from_default_env(),
        },
        0 if quiet => return Ok(()),
        // Warnings of other crates don't help the user.
        0 => EnvFilter::new(
            "off,burnish_models=warn,burnish_lora=warn,burnish_export=warn,burnish_kernels=warn,burnish_metal=warn,burnish_recipes=warn",
        ),
        1 => EnvFilter::new("info"),
        _ => EnvFilter::new("debug"),
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_env_filter(filter);
    // Fails only if there already is a subscriber, which then does the logging.
    if asked || verbose > 0 {
        subscriber.try_init().ok();
    } else {
        subscriber.without_time().with_target(false).try_init().ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn exit_code(arguments: &[&str]) -> i32 {
        Cli::try_parse_from(arguments).and_then(Cli::checked).map_or_else(|error| error.exit_code(), |_| 0)
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_exit_code_2_and_help_is_0() {
        for wrong in [
            &["burnish"][..],
            &["burnish", "fly"],
            &["burnish", "train", "grpo"],
            &["burnish", "train", "--no-such-flag"],
            &["burnish", "generate", "--model", "m"],
            &["burnish", "eval", "--model", "m", "--data", "d", "--batch-size", "0"],
            &["burnish", "export", "--model", "m", "--format", "onnx", "--output", "o"],
            &["burnish", "chat", "--model", "m", "--backend", "gpu"],
            &["burnish", "quantize", "m.gguf", "q.gguf"],
            &["burnish", "quantize", "", "q.gguf", "--quant", "q4_k_m"],
            &["burnish", "quantize", "m.gguf", "q.gguf", "--quant", "q4_k_m", "--max-shard-size", "5"],
            &["burnish", "imatrix", "--model", "m"],
            &["burnish", "push", "merged"],
            &["burnish", "merge", "--model", "m", "--adapter", "a", "--output", "o", "--public"],
            &["burnish", "-q", "-v", "init"],
            &["burnish", "plan", "--model", "m", "--memory", "0"],
            &["burnish", "plan", "--model", "m", "--chip", "M4"],
            &["burnish", "verify", "--only", "everything"],
            &["burnish", "verify", "--model", "m.gguf"],
        ] {
            assert_eq!(exit_code(wrong), 2, "{wrong:?}");
        }
        for fine in [
            &["burnish", "--help"][..],
            &["burnish", "--version"],
            &["burnish", "train", "--help"],
            &["burnish", "train", "-c", "c.toml", "--lora-r", "8", "--no-shuffle"],
            &["burnish", "train", "sft", "-vv", "--json"],
            &["burnish", "generate", "--model", "m", "--prompt", "- a list", "--stop", "--"],
            &["burnish", "init", "-"],
            &["burnish", "init", "--from", "theirs.yaml", "-", "--recipe", "dpo"],
            &["burnish", "quantize", "m.gguf", "q.gguf", "--quant", "q4_k_m", "--imatrix", "i.gguf", "--allow-requantize"],
            &["burnish", "quantize", "m.gguf", "q.gguf", "--quant", "q4_k_m", "--max-shard-size", "2GB"],
            &["burnish", "imatrix", "--model", "m", "--data", "rows.jsonl", "--adapter", "run/adapter"],
            &["burnish", "push", "merged", "owner/name", "--public"],
            &["burnish", "merge", "--model", "m", "--adapter", "a", "--output", "o", "--push", "owner/name"],
            &["burnish", "env", "--json", "-v"],
            &["burnish", "completions", "zsh"],
            &["burnish", "man", "man1"],
            &["burnish", "verify", "--full", "--skip-downloads", "--json"],
            &["burnish", "verify", "--only", "kernels,gguf", "--backend", "cpu", "--dtype", "f32"],
            &["burnish", "verify", "--full", "--model", "m.gguf"],
            &["burnish", "plan", "-c", "c.toml", "--chip", "M4 Pro", "--memory", "24", "--lora-r", "8"],
        ] {
            assert_eq!(exit_code(fine), 0, "{fine:?}");
        }
    }

    #[test]
    fn a_flag_that_the_format_does_not_use_is_wrong_usage() {
        let parse = |words: &str| {
            let words = format!("burnish export --model m --output o --format {words}");
            Cli::try_parse_from(words.split(' ')).and_then(Cli::checked)
        };
        for (wrong, named) in [
            ("gguf --group-size 32", "--format gguf"),
            ("mlx --group-size 32", "--quant int4"),
            ("mlx --quant bf16 --group-size 32", "--quant bf16"),
            ("mlx --quant int4 --group-size 48", "expected 32, 64 or 128"),
            ("gguf --group-size 48", "expected 32, 64 or 128"),
            ("hf --no-modelfile", "--format hf"),
            ("mlx-adapter --no-modelfile", "--format mlx-adapter"),
            ("peft --quant f16", "always stored in f32"),
            ("peft --max-shard-size 1GB", "--format peft"),
            ("hf --imatrix i.gguf", "--format hf"),
            ("gguf --imatrix i.gguf", "--quant"),
            ("gguf --quant f16 --imatrix i.gguf", "--quant f16"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(named), "{wrong}: {error}");
        }
        for fine in [
            "gguf --quant q4_k_m --imatrix i.gguf --max-shard-size 2GB",
            "hf --max-shard-size 5GB",
            "mlx --quant int8 --group-size 128",
            "gguf --no-modelfile",
            "gguf-lora --no-modelfile",
            "mlx --quant int4",
        ] {
            assert!(parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn causes_are_one_line_without_repetitions() {
        let error =
            Err::<(), _>(anyhow!("no space left")).context("a.bin: no space left").context("can't save").unwrap_err();
        assert_eq!(chain(&error, false), "can't save: a.bin: no space left");
    }

    #[test]
    fn a_long_list_of_tensors_is_cut_unless_all_is_asked_for() {
        let error = |count: usize| {
            let problems = (0..count).map(|at| format!("layer {at}")).collect();
            anyhow::Error::from(burnish_lora::LoraError::Mismatch { path: "a".into(), problems }).context("can't merge")
        };
        let text = chain(&error(56), false);
        assert!(text.ends_with(":\n  layer 0\n  layer 1\n  layer 2\n  and 53 more (-v shows all)"), "{text}");
        assert_eq!(chain(&error(56), true).lines().count(), 57);
        assert!(chain(&error(4), false).ends_with("layer 3"));
        let problems = (0..9).map(|at| format!("key {at}")).collect();
        assert_eq!(chain(&ConfigError::Problems { problems }.into(), false).lines().count(), 9);
    }
}
