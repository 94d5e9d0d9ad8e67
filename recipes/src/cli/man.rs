//! `burnish man`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Command;

use crate::report::OutputStyle;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write the pages to
    folder: PathBuf,
}

impl Args {
    pub(super) fn run(self, program: Command, style: OutputStyle) -> Result<ExitCode> {
        let written = std::fs::create_dir_all(&self.folder).and_then(|()| clap_mangen::generate_to(program, &self.folder));
        written.with_context(|| self.folder.display().to_string())?;
        let line = format!(
            "wrote {0}/burnish.1 and a page for each command; read them with: man {0}/burnish.1",
            self.folder.display()
        );
        style.result(line, &serde_json::json!({ "path": self.folder.to_string_lossy() }));
        Ok(ExitCode::SUCCESS)
    }
}
