//! `burnish report`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use burnish_engine::with_hint;
use burnish_models::atomic;
use serde_json::{Value, json};
use toml::Table;

use crate::config::TrainConfig;
use crate::report::OutputStyle;
use crate::run_page::record::RunRecord;
use crate::run_page::settings::Known;
use crate::run_page::{MARK, figures, html};

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the run folder, or in the current folder for several runs]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let runs = self.runs.iter().map(|folder| RunRecord::read(folder)).collect::<Result<Vec<_>>>()?;
        let target = match (self.output, self.runs.as_slice()) {
            (Some(output), _) => output,
            (None, [run]) => run.join("report.html"),
            (None, _) => PathBuf::from("report.html"),
        };
        check(&target)?;
        let known: Vec<Known<'_>> =
            TrainConfig::KEYS.iter().map(|key| Known { name: key.name, section: key.section, help: key.help }).collect();
        let defaults: Table = toml::from_str(&TrainConfig::default().to_toml()).unwrap_or_default();
        let page = html(&runs, &known, &defaults)?;
        atomic::write_bytes(&target, page.as_bytes())?;
        for run in &runs {
            run.notes.iter().for_each(|note| style.say(format!("{}: {note}", run.name)));
        }
        let figures: Vec<Value> = runs
            .iter()
            .map(|run| json!({ "run": run.name, "figures": figures::figures(run), "notes": run.notes }))
            .collect();
        style.result(format!("wrote {}", target.display()), &json!({ "page": target.to_string_lossy(), "runs": figures }));
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses to replace a file that is not a page of this command.
fn check(target: &Path) -> Result<()> {
    let choose = "choose another --output";
    if target.is_dir() {
        return Err(with_hint(format!("{} is a folder", target.display()), choose));
    }
    if !target.exists() {
        return Ok(());
    }
    let text = std::fs::read(target).with_context(|| target.display().to_string())?;
    if String::from_utf8_lossy(&text).contains(MARK) {
        return Ok(());
    }
    Err(with_hint(format!("{} exists, and is not a page of `burnish report`", target.display()), choose))
}
