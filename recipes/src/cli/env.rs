//! `burnish env`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::report::OutputStyle;
use crate::system::report;

/// Arguments of `env`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "every command has this signature")]
    pub(super) fn run(self, verbose: bool, style: OutputStyle) -> Result<ExitCode> {
        let report = report(verbose).without_paths();
        style.result(report.markdown(), &json!(report));
        Ok(ExitCode::SUCCESS)
    }
}
