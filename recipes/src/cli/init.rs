//! `burnish init`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::config::commented_toml;
use crate::report::OutputStyle;
use burnish_engine::with_hint;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write; `-` prints it
    #[arg(default_value = "burnish.toml")]
    file: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let text = commented_toml();
        if self.file.as_os_str() == "-" {
            // The reader may have closed the pipe, which is not an error.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            return Ok(ExitCode::SUCCESS);
        }
        if self.file.exists() && !self.overwrite {
            return Err(with_hint(format!("{} already exists", self.file.display()), "--overwrite replaces it"));
        }
        std::fs::write(&self.file, text).with_context(|| self.file.display().to_string())?;
        let line = format!("wrote {0}; set `model` and `data` in it, then run: burnish train -c {0}", self.file.display());
        style.result(line, &serde_json::json!({ "path": self.file }));
        Ok(ExitCode::SUCCESS)
    }
}
