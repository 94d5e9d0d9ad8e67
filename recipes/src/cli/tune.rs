//! `burnish tune`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use burnish_backends::dtype;
use burnish_engine::{AdamWConfig, Adapter, Device, TrainedPart, Weights, with_hint};
use burnish_models::{FloatType, Pretrained};

use super::environment;
use super::flags::ConfigFlags;
use crate::config::{FineTuneType, Needs, TrainConfig, load_with};
use crate::recipe;
use crate::report::OutputStyle;
use crate::storage::{StorageChoice, requested};
use crate::tune::{ProductTable, TunedClass, TuningKey, chosen, describe, measure, summary, synthetic_step, to_json};

/// Arguments of `tune`. If a flag is given twice, the last one counts.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Configuration in TOML or YAML, overridden by flags; see `burnish init`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Measure again what was measured on this device before
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let (variables, of_variables) = environment::settings(environment::variable);
        let loaded = load_with(self.config.as_deref(), self.flags.0, &variables, Needs::Model)?;
        loaded.notes.iter().chain(&of_variables).for_each(|note| style.say(note));
        let mut config = loaded.config;
        let (backend, why) = burnish_backends::choose(&config.backend)?;
        backend.clone_into(&mut config.backend);
        recipe::check(&config)?;
        style.say(format!("backend {backend} ({why})"));
        let key = TuningKey::of(backend);
        let table = ProductTable::of(&key);
        let kept = match &table {
            Some(table) if !self.again => table.read().into_keys().collect(),
            _ => BTreeSet::new(),
        };
        let start = Instant::now();
        let measured = burnish_backends::enter(backend, |device| of_step(device, &config, &kept, style));
        let Measured { classes, known } = measured?;
        if classes.is_empty() && known == 0 {
            return Err(with_hint(
                format!("there is nothing to choose on `{backend}`: it computes products in one way only"),
                "the backends metal, vulkan and cuda have several",
            ));
        }
        let known_line = format!("{known} classes were measured on this device before; --again measures them again");
        if classes.is_empty() {
            style.result(known_line, &to_json(&key, &classes, 0.0));
            return Ok(ExitCode::SUCCESS);
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut text = format!("{}\n{key}; {seconds:.1} s", summary(&classes));
        if known > 0 {
            text += &format!("\n{known_line}");
        }
        match &table {
            Some(table) => {
                table.add(&chosen(&classes))?;
                text += &format!("\nkept for runs on this device in {}", table.path().display());
            }
            None => text += "\nnot kept: there is no folder for caches",
        }
        style.result(text, &to_json(&key, &classes, seconds));
        Ok(ExitCode::SUCCESS)
    }
}

/// What was measured, and the number of classes that were known.
struct Measured {
    classes: Vec<TunedClass>,
    known: usize,
}

/// Measures the classes of the products of a step that are not known yet.
fn of_step(device: &dyn Device, config: &TrainConfig, known: &BTreeSet<String>, style: OutputStyle) -> Result<Measured> {
    if !device.computes_packed() {
        return Ok(Measured { classes: Vec::new(), known: 0 });
    }
    let pretrained = match &config.model_config {
        Some(folder) => Pretrained::without_weights(Path::new(folder))?,
        None => Pretrained::open(&config.model)?,
    };
    let dtype = match config.fine_tune_type {
        FineTuneType::Full => FloatType::F32,
        FineTuneType::Lora => dtype::choose(&config.backend, &config.dtype)?.dtype,
    };
    let storage = StorageChoice::new(&config.backend, &pretrained, requested(config, dtype), config.optimizer)?;
    let lora = config.lora();
    let part = match config.fine_tune_type {
        FineTuneType::Full if config.model_config.is_some() => TrainedPart::All(Weights::Random { seed: config.seed }),
        FineTuneType::Full => TrainedPart::All(Weights::Of(&*pretrained.checkpoint)),
        FineTuneType::Lora => TrainedPart::Adapters {
            base: &*pretrained.checkpoint,
            options: storage.options,
            adapter: Adapter::Fresh { config: &lora, seed: config.seed },
            reference: None,
        },
    };
    let mut trainer = device.train(&pretrained.config, part, AdamWConfig::default())?;
    let model = &pretrained.config;
    let step = synthetic_step(config, model.vocab_size, model.max_position_embeddings);
    let batch = &step.batches[0];
    style.say(format!("products of a step of {} tokens, in {dtype}", batch.tokens));
    device.note_products();
    let rehearsed = trainer.rehearse(&step);
    let trials = device.product_trials();
    rehearsed.map_err(|error| {
        with_hint(
            format!("{error:#}"),
            "a step that is smaller fits: lower batch_size or max_seq_length, or use grad_checkpoint",
        )
    })?;
    // What is not needed any longer makes room for operands.
    drop(trainer);
    let (mut classes, mut of_before) = (Vec::new(), 0);
    for mut trial in trials.into_iter().filter(|trial| trial.candidates().len() > 1) {
        if known.contains(trial.class()) {
            of_before += 1;
            continue;
        }
        let class = measure(&mut *trial);
        if !style.json {
            style.result(describe(&class), &serde_json::Value::Null);
        }
        classes.push(class);
    }
    Ok(Measured { classes, known: of_before })
}
