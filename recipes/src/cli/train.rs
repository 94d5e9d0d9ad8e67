//! `burnish train`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use burn_train::Interrupter;
use serde_json::json;

use super::environment;
use super::flags::ConfigFlags;
use super::leave::Leave;
use super::row_cache;
use crate::config::{FineTuneType, Needs, Recipe, TrainConfig, load_with};
use crate::dashboard::{self, Dashboard};
use crate::plan::{Header, Planned, preset, process_so_far};
use crate::report::{OutputStyle, RowsReport, TrainReport};
use crate::train::{End, Events, Plan, PreparedRun, RowAccess, Summary, train};
use burnish_backends::dtype;
use burnish_engine::with_hint;
use burnish_lora::read_config;
use burnish_models::{FloatType, atomic};

/// Arguments of `train`. If a flag is given twice, the last one counts.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Recipe: sft (fine-tuning on answers), dpo, orpo, simpo or cpo (preferences in pairs), kto (good and bad answers) [default: sft]
    #[arg(id = "recipe_argument", value_name = "RECIPE", value_parser = Recipe::NAMES, hide_possible_values = true)]
    recipe: Option<String>,
    /// Configuration in TOML or YAML, overridden by flags; see `burnish init`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Choose settings that fit into this much memory, such as 16gb, for keys that are not set
    #[arg(long, value_name = "SIZE", value_parser = preset::amount)]
    preset: Option<u64>,
    /// Show a dashboard in the terminal: loss curve, speed, memory, time left; q stops the run after the step
    #[arg(long)]
    tui: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        if self.tui && !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
            return Err(with_hint("--tui needs a terminal", "without --tui the run prints plain lines"));
        }
        if self.tui && style.json {
            return Err(with_hint("--tui and --json exclude each other", "both would write to the terminal"));
        }
        let mut flags = self.flags.0;
        if let Some(recipe) = self.recipe {
            flags.insert("recipe".to_owned(), recipe.into());
        }
        let (variables, of_variables) = environment::settings(environment::variable);
        let loaded = load_with(self.config.as_deref(), flags, &variables, Needs::All)?;
        let (config, chosen) = match self.preset {
            Some(gib) => with_preset(loaded.config, &loaded.given, gib)?,
            None => (loaded.config, None),
        };
        let (name, why) = burnish_backends::choose(&config.backend)?;
        // The dashboard needs the whole terminal.
        let while_it_runs = if self.tui { OutputStyle { quiet: true, ..style } } else { style };
        let mut report = TrainReport::new(while_it_runs, config.steps_per_report);
        let notes: Vec<String> = loaded.notes.into_iter().chain(of_variables).chain(chosen).collect();
        for note in &notes {
            report.note(note);
        }
        let rows = RowsReport::new(style);
        let progress = |progress| rows.take(progress);
        let cache = config.keep_rows.then(row_cache).flatten();
        let prepared = PreparedRun::with(config.clone(), &RowAccess { cache, progress: Some(&progress) })?;
        rows.finish();
        describe(&prepared, name, why, style);
        for note in &prepared.notes {
            report.note(note);
        }
        for warning in &prepared.warnings {
            report.warning(warning);
        }
        let interrupter = Interrupter::new();
        on_interrupt(interrupter.clone(), while_it_runs);
        let leave = Leave::of(&prepared.pretrained);
        let summary = if self.tui {
            on_dashboard(prepared, &notes, interrupter, style)?
        } else {
            train(prepared, Arc::new(Mutex::new(report)), interrupter)?
        };
        let value = json!({
            "event": "end", "end": format!("{:?}", summary.end), "step": summary.state.step,
            "loss": summary.last_loss, "best_loss": summary.state.best_loss, "best_step": summary.state.best_step,
            "output": summary.output, "output_step": summary.output_step, "checkpoint": summary.checkpoint,
        });
        if summary.end == End::Interrupted {
            let saved = summary.checkpoint.map(|path| format!(", saved {}", path.display())).unwrap_or_default();
            style.result(
                format!(
                    "stopped at step {}{saved}; to continue, run the same command with --resume auto",
                    summary.state.step
                ),
                &value,
            );
            return Ok(ExitCode::FAILURE);
        }
        if summary.end == End::EarlyStop {
            style
                .say(format!("stopped early: the validation loss did not improve in {} validations", config.early_stopping));
        }
        if let Some(output) = &summary.output {
            let (step, best) = (summary.output_step, summary.state.best_step);
            let which = if step == summary.state.step { String::new() } else { format!(" from step {step}, the best") };
            style.result(format!("wrote {}{which}", output.display()), &value);
            if let Some(best) = best.filter(|best| *best != step && config.save_every > 0) {
                style.say(format!(
                    "the validation loss was lowest at step {best}, kept in {}/checkpoint-{best}; load_best_model_at_end ends with that one",
                    config.output_dir
                ));
            }
            style.say("to use it in other programs:");
            let is_adapter = config.fine_tune_type == FineTuneType::Lora;
            let lora = is_adapter.then(|| read_config(output)).transpose()?;
            leave
                .lines(&config.output_dir, &output.display().to_string(), lora.as_ref())
                .iter()
                .for_each(|line| style.say(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Trains behind a dashboard, and prints what remains of it.
fn on_dashboard(prepared: PreparedRun, notes: &[String], interrupter: Interrupter, style: OutputStyle) -> Result<Summary> {
    let config = &prepared.config;
    let model = if prepared.pretrained.source.is_empty() { "(from scratch)" } else { &prepared.pretrained.source };
    let title = format!("{model} · {} · {} · {}", config.recipe.name(), config.backend, config.output_dir);
    let notes: Vec<String> = notes.iter().chain(&prepared.notes).cloned().collect();
    let warnings = prepared.warnings.clone();
    let dashboard = Arc::new(Mutex::new(Dashboard::open(title, interrupter.clone())?));
    let shown = || dashboard.lock().unwrap_or_else(PoisonError::into_inner);
    notes.iter().for_each(|note| shown().note(note));
    warnings.iter().for_each(|warning| shown().warning(warning));
    let summary = train(prepared, dashboard.clone(), interrupter);
    for line in shown().close() {
        style.say(line);
    }
    summary
}

/// The configuration with what a preset sets, and a line about it.
fn with_preset(config: TrainConfig, given: &BTreeSet<String>, gib: u64) -> Result<(TrainConfig, Option<String>)> {
    let (backend, _) = burnish_backends::choose(&config.backend)?;
    let header = Header::open(&config)?;
    let dtype = match config.fine_tune_type {
        FineTuneType::Full => FloatType::F32,
        FineTuneType::Lora => dtype::choose(backend, &config.dtype)?.dtype,
    };
    let (model, checkpoint) = (&header.config, &*header.checkpoint);
    let planned = Planned {
        config: &config,
        model,
        checkpoint,
        backend,
        dtype,
        tokens: None,
        without_gradients: None,
        process: process_so_far(),
    };
    let chosen = preset::choose(&planned, given, gib)?;
    Ok((chosen.config, Some(chosen.line)))
}

/// Prints model, data and effective configuration.
fn describe(prepared: &PreparedRun, backend: &str, why: &str, style: OutputStyle) {
    let config = &prepared.config;
    let done = prepared.resume.as_ref().map_or(0, |checkpoint| checkpoint.state.step);
    let plan = Plan::new(config, prepared.train.clone(), done);
    let model = &prepared.pretrained;
    style.say(format!(
        "model {}: {}, {} layers, {:.1} M parameters",
        if model.source.is_empty() { "(from scratch)" } else { &model.source },
        model.config.model_type,
        model.config.num_hidden_layers,
        model.config.parameter_count() as f64 / 1e6
    ));
    let (each, what) = if config.recipe.has_pairs() { (2, "pairs") } else { (1, "examples") };
    let valid = prepared.valid.as_ref().map_or(0, |valid| valid.examples().len() / each);
    style.say(format!(
        "data {}: {} training {what}, {valid} validation {what}; {} steps of {} {what}",
        config.data,
        prepared.train.examples().len() / each,
        plan.total,
        config.batch_size * config.grad_accumulation_steps
    ));
    style.say(prepared.shapes.to_string());
    style.say(prepared.memory.line());
    style.say(format!("backend {backend} ({why})"));
    style.say(format!("dtype {} ({})", prepared.dtype.dtype, prepared.dtype.why));
    style.say(prepared.storage.line());
    for line in effective(config) {
        style.say(line);
    }
    style.say(format!("saved this configuration in {}/config.toml", config.output_dir));
}

/// Every key with its value, one line per section.
fn effective(config: &TrainConfig) -> Vec<String> {
    let values: toml::Table = toml::from_str(&config.to_toml()).unwrap_or_default();
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    for key in TrainConfig::KEYS {
        let Some(value) = values.get(key.name) else { continue };
        let entry = format!("{} {value}", key.name);
        match lines.last_mut().filter(|(section, _)| *section == key.section) {
            Some((_, keys)) => keys.push(entry),
            None => lines.push((key.section, vec![entry])),
        }
    }
    lines.into_iter().map(|(section, keys)| format!("{}: {}", section.to_lowercase(), keys.join(", "))).collect()
}

/// The first Ctrl-C stops the run after the current step; the second exits at once.
pub(super) fn on_interrupt(interrupter: Interrupter, style: OutputStyle) {
    let set = ctrlc::set_handler(move || {
        if interrupter.should_stop() {
            dashboard::restore();
            atomic::abandon();
            std::process::exit(1);
        }
        interrupter.stop(Some("interrupted"));
        style.say("finishing the step and saving; press Ctrl-C again to exit at once");
    });
    if set.is_err() {
        style.say("can't handle Ctrl-C here; it will exit at once, without saving");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_with_a_value_is_printed() {
        let lines = effective(&TrainConfig { rank: 7, model: "m".to_owned(), ..TrainConfig::default() });
        let text = lines.join("\n");
        assert!(text.contains("rank 7") && text.contains("model \"m\"") && text.contains("optimizer: "), "{text}");
        let absent = ["model_config", "adapter", "text_feature", "prompt_feature", "completion_feature", "chat_feature"];
        assert!(TrainConfig::KEYS.iter().all(|key| absent.contains(&key.name) || text.contains(key.name)), "{text}");
    }
}
