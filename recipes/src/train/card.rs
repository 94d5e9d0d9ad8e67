//! What the model card of a run's result says of the training.

use std::path::Path;

use burnish_export::ModelCard;
use burnish_models::Pretrained;

use super::run::TrainingRun;
use super::weights::WeightWriter;

/// The model card of a run's result.
pub fn card(run: &TrainingRun, pretrained: &Pretrained) -> ModelCard {
    let (library, adapter) = match &run.weights {
        WeightWriter::Adapter { lora, .. } => ("peft", Some(lora.clone())),
        WeightWriter::Model => ("transformers", None),
    };
    ModelCard { base: pretrained.source.clone(), library, adapter, training: rows(run) }
}

/// The word of a value in configuration files.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn rows(run: &TrainingRun) -> Vec<(String, String)> {
    let (config, state) = (&run.config, &run.state);
    let (each, what) = if config.recipe.has_pairs() { (2, "pairs") } else { (1, "examples") };
    // A path of this machine says nothing elsewhere.
    let file =
        |path: &str| Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned());
    let files = config.data.split(',').map(|part| file(part.trim())).collect::<Vec<_>>().join(", ");
    let mut data = format!("{files}: {} {what}", run.plan.batches.examples().len() / each);
    if let Some(valid) = &run.valid {
        data = format!("{data}, and {} for validation", valid.examples().len() / each);
    }
    let mut rows = vec![
        ("recipe", word(config.recipe)),
        ("data", data),
        (
            "steps",
            format!(
                "{} of {} {what}, {} tokens",
                state.step,
                config.batch_size * config.grad_accumulation_steps,
                state.tokens
            ),
        ),
        ("learning rate", format!("{}, {}", config.learning_rate, word(config.lr_scheduler))),
        ("optimizer", word(config.optimizer)),
        ("seed", state.seed.to_string()),
    ];
    rows.extend(run.last_loss.map(|loss| ("loss of the last step", format!("{loss:.4}"))));
    if let (Some(loss), Some(step)) = (state.best_loss, state.best_step) {
        rows.push(("lowest validation loss", format!("{loss:.4}, at step {step}")));
    }
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
