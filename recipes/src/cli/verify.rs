//! `burnish verify`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use burnish_backends::dtype;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use crate::report::OutputStyle;
use crate::verify::{Check, MODEL, Options, Outcome, verify};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check every size and storage format, and a model from the hub (270 MB), however long it takes
    #[arg(long)]
    full: bool,
    /// Download nothing, also with --full
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
    /// Data type beside f32: auto (that of training on the device), f32, f16 or bf16
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
        let is_plain = style.json || style.quiet || !std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            if is_plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
        );
        let report = verify(
            &options,
            |check| {
                bar.set_message(format!("checking: {}", check.name()));
                bar.enable_steady_tick(Duration::from_millis(200));
            },
            |checked| {
                bar.disable_steady_tick();
                bar.set_message("");
                bar.suspend(|| {
                    if style.json || (style.quiet && checked.outcome != Outcome::Failed) {
                        return;
                    }
                    style.result(checked.row(), &Value::Null);
                    if verbose {
                        for detail in &checked.details {
                            let used =
                                detail.tolerance_used.map_or_else(String::new, |used| format!("{:5.1} %", 100.0 * used));
                            let verdict = if detail.passed { "" } else { "  FAILED" };
                            let dtype = detail.dtype.unwrap_or("");
                            style.result(format!("     {used:>7}  {dtype:<4}  {}{verdict}", detail.name), &Value::Null);
                        }
                    }
                });
            },
        )?;
        bar.finish_and_clear();
        style.result(report.conclusion(), &json!(report));
        Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
