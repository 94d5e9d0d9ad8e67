//! `burnish quickstart`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use burn_train::Interrupter;
use burnish_backends::dtype;
use serde_json::json;

use super::train::on_interrupt;
use crate::quickstart::{Outcome, PROMPTS, Score, config, run, score, unpack};
use crate::report::{OutputStyle, TrainReport};
use crate::train::Events;
use burnish_engine::with_hint;

/// Arguments of `quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for all files
    #[arg(long, value_name = "FOLDER", default_value = "runs/quickstart")]
    output_dir: PathBuf,
    /// Fail instead of replacing an earlier quickstart
    #[arg(long)]
    no_overwrite: bool,
    /// Backend: auto, cpu (fastest for this tiny model), wgpu, metal (macOS), vulkan (Linux, Windows), cuda; if built in: candle, emulator
    #[arg(long, default_value = "cpu", value_parser = burnish_backends::NAMES.to_vec(), hide_possible_values = true)]
    backend: String,
    /// Random seed of data order and adapters
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
}

/// Marks a folder of the quickstart: no other folder is ever replaced.
const MARK: &str = ".burnish-quickstart";

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let root = &self.output_dir;
        self.claim(root)?;
        let (name, why) = burnish_backends::choose(&self.backend)?;
        let dtype = dtype::choose(&self.backend, "auto")?;
        style.say(format!("backend {name} ({why}), {} ({})", dtype.dtype, dtype.why));
        style.say(format!("writing all files to {}", root.display()));
        style.say("fine-tuning a tiny chat model about table bookings to answer in JSON\n");
        let folders = unpack(root)?;
        let before = score(&folders, None, &self.backend)?;
        style.say(format!("before training: {} of {} held-out bookings correct", before.right, before.asked));
        let config = config(&folders, &self.backend, self.seed);
        let events: Arc<Mutex<dyn Events>> = Arc::new(Mutex::new(TrainReport::new(style, config.steps_per_report)));
        let interrupter = Interrupter::new();
        on_interrupt(interrupter.clone(), style);
        let Some(outcome) = run(&folders, config, before, events, interrupter)? else {
            style.say("interrupted; run the command again to start over");
            return Ok(ExitCode::FAILURE);
        };
        style.result(summary(&outcome, root), &json!(outcome));
        Ok(ExitCode::SUCCESS)
    }

    /// Claims the folder, if it is empty or from an earlier quickstart.
    fn claim(&self, root: &Path) -> Result<()> {
        let occupied = std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
        if occupied && (self.no_overwrite || !root.join(MARK).exists()) {
            return Err(with_hint(format!("{} is not empty", root.display()), "choose another --output-dir"));
        }
        let write =
            || std::fs::create_dir_all(root).and_then(|()| std::fs::write(root.join(MARK), "made by burnish quickstart\n"));
        write().map_err(|error| anyhow::Error::new(error).context(root.display().to_string()))
    }
}

fn summary(outcome: &Outcome, root: &Path) -> String {
    let percent = |score: &Score| 100.0 * score.right as f64 / score.asked.max(1) as f64;
    let answers = PROMPTS.iter().zip(outcome.before.answers.iter().zip(&outcome.after.answers));
    let mut lines: Vec<String> =
        answers.map(|(prompt, (before, after))| format!("\n> {prompt}\n  before: {before}\n  after:  {after}")).collect();
    lines.extend([
        format!(
            "\nheld-out bookings correct: {:.0} % before, {:.0} % after ({:.0} s of training)",
            percent(&outcome.before),
            percent(&outcome.after),
            outcome.train_seconds
        ),
        format!("adapter  {}", outcome.adapter.display()),
        format!("merged   {}", outcome.merged.path.display()),
        format!("GGUF     {}", outcome.gguf.path.display()),
        format!(
            "\ntalk to it: burnish chat --model {} --adapter {}",
            root.join("base").display(),
            outcome.adapter.display()
        ),
        format!("a page about it: burnish report {}", root.join("run").display()),
    ]);
    lines.join("\n")
}
