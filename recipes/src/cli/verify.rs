//! `burnish verify`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use burnish_backends::dtype;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use crate::report::OutputStyle;
use crate::verify::{Check, CheckReport, MODEL, Options, Outcome, Progress, verify};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check every size and storage format, and a model from the hub (270 MB), however long it takes
    #[arg(long)]
    full: bool,
    /// Download nothing, even with --full
    #[arg(long)]
    skip_downloads: bool,
    /// Model to check with --full: a hub id, folder or file
    #[arg(short, long, value_name = "MODEL", default_value = MODEL, requires = "full", conflicts_with = "skip_downloads")]
    model: String,
    /// Run only these checks, separated by commas
    #[arg(long, value_name = "CHECKS", value_enum, value_delimiter = ',')]
    only: Vec<Check>,
    /// Backend: auto, cpu, wgpu, metal (macOS), vulkan (Linux, Windows), cuda; if built in: candle, emulator
    #[arg(long, default_value = "auto", value_parser = burnish_backends::NAMES.to_vec(), hide_possible_values = true)]
    backend: String,
    /// Data type to check besides f32: auto (that of training on the device), f32, f16 or bf16
    #[arg(long, default_value = "auto", value_parser = dtype::NAMES.to_vec(), hide_possible_values = true)]
    dtype: String,
}

impl Args {
    pub(super) fn run(self, verbose: bool, style: OutputStyle) -> Result<ExitCode> {
        let (backend, why) = burnish_backends::choose(&self.backend)?;
        style.say(format!("verifying `{backend}` ({why}); burnish {}", env!("CARGO_PKG_VERSION")));
        let options = Options {
            backend: self.backend,
            dtype: self.dtype,
            full: self.full,
            model: (self.full && !self.skip_downloads).then_some(self.model),
            only: self.only,
        };
        let screen = Screen::new(backend, verbose, style);
        let report = verify(&options, |progress| screen.show(progress))?;
        screen.bar.finish_and_clear();
        style.result(report.conclusion(), &json!(report));
        Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Seconds between lines about a check that takes long, where there is no terminal.
const BETWEEN: Duration = Duration::from_secs(15);

/// Shows how far the checks are: in a terminal what is done now, elsewhere a line now and then.
struct Screen {
    bar: ProgressBar,
    verbose: bool,
    style: OutputStyle,
    /// Why a part may take long.
    note: &'static str,
    /// When the last line was printed.
    said: Mutex<Instant>,
}

impl Screen {
    fn new(backend: &str, verbose: bool, style: OutputStyle) -> Self {
        let is_plain = style.json || style.quiet || !std::io::stderr().is_terminal();
        let target = if is_plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let note = if backend == "cpu" { "" } else { "; its kernels are compiled if they are new" };
        Self { bar, verbose, style, note, said: Mutex::new(Instant::now()) }
    }

    fn show(&self, progress: Progress<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Begins(check) => {
                self.bar.set_message(format!("checking: {}", check.name()));
                self.bar.enable_steady_tick(Duration::from_millis(200));
                *said = Instant::now();
            }
            Progress::Part(check, part) => {
                let line = format!("checking: {}, {part}{}", check.name(), self.note);
                self.bar.set_message(line.clone());
                if self.bar.is_hidden() && said.elapsed() > BETWEEN {
                    self.style.say(line);
                    *said = Instant::now();
                }
            }
            Progress::Ended(checked) => {
                self.bar.disable_steady_tick();
                self.bar.set_message("");
                self.bar.suspend(|| self.print(checked));
            }
        }
    }

    fn print(&self, checked: &CheckReport) {
        let Self { verbose, style, .. } = *self;
        if style.json || (style.quiet && checked.outcome != Outcome::Failed) {
            return;
        }
        style.result(checked.row(), &Value::Null);
        for detail in checked.details.iter().filter(|_| verbose) {
            let used = detail.tolerance_used.map_or_else(String::new, |used| format!("{:5.1} %", 100.0 * used));
            let verdict = if detail.passed { "" } else { "  FAILED" };
            let dtype = detail.dtype.unwrap_or("");
            style.result(format!("     {used:>7}  {dtype:<4}  {}{verdict}", detail.name), &Value::Null);
        }
    }
}
