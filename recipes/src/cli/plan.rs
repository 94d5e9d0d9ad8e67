//! `burnish plan`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use burnish_backends::dtype;
use burnish_models::FloatType;
use serde_json::json;

use super::environment;
use super::flags::ConfigFlags;
use crate::config::{FineTuneType, Needs, QuantizationKind, Recipe, TrainConfig, load_with};
use crate::plan::{Budget, Header, Planned, chip, preset, process_so_far};
use crate::recipe;
use crate::report::OutputStyle;

/// Arguments of `plan`. If a flag is given twice, the last one counts.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Recipe: sft (fine-tuning on answers), dpo, orpo, simpo or cpo (preferences in pairs), kto (good and bad answers) [default: sft]
    #[arg(id = "recipe_argument", value_name = "RECIPE", value_parser = Recipe::NAMES, hide_possible_values = true)]
    recipe: Option<String>,
    /// Configuration in TOML or YAML, overridden by flags; see `burnish init`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan for a Mac with this chip, such as "M4 Pro", and the memory of --memory
    #[arg(long, value_name = "NAME", requires = "memory")]
    chip: Option<String>,
    /// Plan for a machine with this many GiB instead of this one
    #[arg(long, value_name = "GIB", value_parser = whole_gib)]
    memory: Option<u64>,
    /// Choose settings that fit into this much memory, such as 16gb, for keys that are not set
    #[arg(long, value_name = "SIZE", value_parser = preset::amount)]
    preset: Option<u64>,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Memory in whole GiB.
fn whole_gib(text: &str) -> std::result::Result<u64, String> {
    let amount = text.parse().ok().filter(|amount| (1..=1 << 20).contains(amount));
    amount.ok_or_else(|| format!("expected a whole number of GiB, from 1 to {}", 1 << 20))
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let mut flags = self.flags.0;
        if let Some(recipe) = self.recipe {
            flags.insert("recipe".to_owned(), recipe.into());
        }
        let (variables, of_variables) = environment::settings(environment::variable);
        let loaded = load_with(self.config.as_deref(), flags, &variables, Needs::Model)?;
        for note in loaded.notes.iter().chain(&of_variables) {
            style.say(note);
        }
        let mut config = loaded.config;
        recipe::check(&config)?;
        let chip = match &self.chip {
            Some(name) => {
                "metal".clone_into(&mut config.backend);
                Some(chip::named(name)?)
            }
            None if self.memory.is_none() => chip::of_this_machine(),
            None => None,
        };
        let header = Header::open(&config)?;
        let backend = burnish_backends::choose(&config.backend)?.0;
        let (dtype, budget) = match self.memory {
            Some(gib) => (elsewhere(&config, backend)?, Some(Budget::of_gib(backend, gib)?)),
            None => (here(&mut config, backend)?, Budget::of_this_machine(backend)),
        };
        let Header { name, config: model, checkpoint } = &header;
        let checkpoint = &**checkpoint;
        let (tokens, without_gradients) = (None, None);
        let process = if self.memory.is_none() { process_so_far() } else { None };
        let mut planned = Planned { config: &config, model, checkpoint, backend, dtype, tokens, without_gradients, process };
        let chosen = self.preset.map(|gib| preset::choose(&planned, &loaded.given, gib)).transpose()?;
        if let Some(chosen) = &chosen {
            style.say(&chosen.line);
            planned.config = &chosen.config;
        }
        let mut plan = planned.plan(budget)?;
        plan.step_time = chip.filter(|_| backend == "metal").map(|chip| planned.step_time(&chip)).transpose()?;
        let parameters = model.parameter_count() as f64 / 1e6;
        let text = format!("{name}: {}, {parameters:.1} M parameters; {plan}", model.model_type);
        let mut value = json!(plan);
        value["model"] = json!(name);
        style.result(text, &value);
        Ok(ExitCode::SUCCESS)
    }
}

/// The type that another machine's backend computes in, as far as that can be known.
fn elsewhere(config: &TrainConfig, backend: &str) -> Result<FloatType> {
    if config.fine_tune_type == FineTuneType::Full { Ok(FloatType::F32) } else { dtype::usual(backend, &config.dtype) }
}

/// The type that this machine's backend computes in. Where it has no kernels for packed weights, those of a file become floats, as they
/// do when it trains.
fn here(config: &mut TrainConfig, backend: &str) -> Result<FloatType> {
    if config.quantization == QuantizationKind::Auto && !burnish_backends::open(backend)?.computes_packed() {
        config.quantization = QuantizationKind::None;
    }
    match config.fine_tune_type {
        FineTuneType::Full => Ok(FloatType::F32),
        FineTuneType::Lora => Ok(dtype::choose(backend, &config.dtype)?.dtype),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_train_refuses_has_no_plan() {
        let refused = |recipe: &str, (key, value): (&str, Value), word: &str| {
            let flags = [("model", Value::from("llama-3.2-1b")), (key, value)];
            let flags = ConfigFlags(flags.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
            let plan =
                Args { recipe: Some(recipe.to_owned()), config: None, chip: None, memory: Some(16), preset: None, flags };
            let error = plan.run(OutputStyle { quiet: true, ..OutputStyle::default() }).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused("kto", ("batch_size", 1.into()), "`batch_size` is 1");
        refused("dpo", ("fine_tune_type", "full".into()), "second model");
        refused("dpo", ("packing", true.into()), "`packing` is on");
    }
}
