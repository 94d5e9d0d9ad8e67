//! Configuration keys that changed since the checkpoint that a run resumes from.

use std::path::Path;

use anyhow::Result;
use burnish_engine::with_hint;
use toml::{Table, Value};

use super::saved_config::{CONFIG, run_config};
use crate::config::{ADAPTER_KEYS, PREFERENCE_KEYS, TrainConfig};

/// Keys that decide when and where files are written, or how the run started, but not what is learned from here on.
const HARMLESS: [&str; 18] = [
    "resume",
    "overwrite",
    "output_dir",
    "save_every",
    "save_total_limit",
    "steps_per_report",
    "adapter",
    "allow_changed_inputs",
    "allow_over_budget",
    "skip_bad_rows",
    "report_to",
    "project_name",
    "run_name",
    "timings",
    "prevent_sleep",
    "samples",
    "keep_rows",
    // The checkpoint's choice stays.
    "tune",
];
/// Inputs: their fingerprints are compared, which is better than comparing their paths.
const INPUTS: [&str; 6] = ["model", "data", "text_feature", "prompt_feature", "completion_feature", "chat_feature"];
/// Keys that can't change within a run.
const FIXED: [&str; 11] = [
    "fine_tune_type",
    "recipe",
    "rank",
    "alpha",
    "rslora",
    "dora",
    "init",
    "modules_to_save",
    "target_modules",
    "target_parameters",
    "num_layers",
];
/// Keys that decide how the base model is stored.
const OF_WEIGHTS: [&str; 3] = ["quantization", "double_quant", "quantize_embedding"];
/// Keys that, together with `val_batches`, decide which rows are validated.
const OF_BATCHES: [&str; 2] = ["batch_size", "packing"];

struct Change {
    key: String,
    before: Option<Value>,
    now: Value,
}

/// The changed keys that make a difference.
pub(super) struct Changes {
    keys: Vec<Change>,
    validates_some: bool,
}

impl Changes {
    /// Compares the configuration with that of a checkpoint; without a saved configuration there are no changes.
    pub(super) fn since(checkpoint: &Path, config: &TrainConfig, has_fingerprint: bool) -> Self {
        let table = |config: &TrainConfig| toml::from_str::<Table>(&config.to_toml()).unwrap_or_default();
        let Some(old) = run_config(&checkpoint.join(CONFIG)) else {
            return Self { keys: Vec::new(), validates_some: false };
        };
        let (new, defaults) = (table(config), table(&TrainConfig::default()));
        // Keys that the checkpoint's version did not have count as their defaults.
        let before = |key: &str| old.get(key).or_else(|| defaults.get(key)).cloned();
        let matters = |key: &str| {
            !(HARMLESS.contains(&key)
                || has_fingerprint && INPUTS.contains(&key)
                || PREFERENCE_KEYS.contains(&key) && !config.recipe.preference_keys().contains(&key)
                || old.contains_key("adapter") && ADAPTER_KEYS.contains(&key))
        };
        let validates_some = [&old, &new].iter().any(|table| table.get("val_batches") != Some(&Value::Integer(0)));
        let changed = new.into_iter().map(|(key, now)| Change { before: before(&key), key, now });
        let keys = changed.filter(|change| change.before.as_ref() != Some(&change.now) && matters(&change.key)).collect();
        Self { keys, validates_some }
    }

    /// A note for each changed key.
    ///
    /// # Errors
    /// When a key changed that can't change within a run.
    pub(super) fn lines(&self, checkpoint: &Path) -> Result<Vec<String>> {
        let line = |Change { key, before, now }: &Change| {
            let before = before.as_ref().map_or_else(String::new, |before| format!("was {before} and "));
            if FIXED.contains(&key.as_str()) {
                return Err(with_hint(
                    format!("`{key}` {before}is now {now}, but {} has the old value", checkpoint.display()),
                    "resume with the old value, or start a new run in another --output-dir",
                ));
            }
            Ok(format!("`{key}` {before}is now {now}: the run will differ from an uninterrupted one"))
        };
        self.keys.iter().map(line).collect()
    }

    /// The changed keys that affect the validation loss.
    pub(super) fn of_validation(&self) -> Vec<String> {
        let keys = self.keys.iter().map(|change| change.key.as_str());
        let decides = |key: &&str| {
            *key == "val_batches"
                || PREFERENCE_KEYS.contains(key)
                || OF_WEIGHTS.contains(key)
                || INPUTS.contains(key)
                || self.validates_some && OF_BATCHES.contains(key)
        };
        keys.filter(decides).map(|key| format!("`{key}`")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;

    /// The notes on a change, and the keys that affect the validation loss.
    fn changed(old: &TrainConfig, new: &TrainConfig) -> Result<(Vec<String>, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), old.to_toml()).unwrap();
        let changes = Changes::since(folder.path(), new, true);
        Ok((changes.lines(folder.path())?, changes.of_validation()))
    }

    #[test]
    fn keys_that_shape_the_adapter_can_not_change() {
        let config = TrainConfig::default();
        assert_eq!(changed(&config, &config).unwrap(), (Vec::new(), Vec::new()));
        let (lines, _) = changed(&config, &TrainConfig { learning_rate: 1.0, save_every: 7, ..config.clone() }).unwrap();
        assert!(lines.len() == 1 && lines[0].contains("`learning_rate` was"), "{lines:?}");
        for (other, value) in [
            (TrainConfig { rank: 3, ..config.clone() }, "3"),
            (TrainConfig { alpha: 3.0, ..config.clone() }, "3.0"),
            (TrainConfig { recipe: Recipe::Dpo, ..config.clone() }, "\"dpo\""),
        ] {
            let error = changed(&config, &other).unwrap_err().to_string();
            assert!(error.contains(&format!("is now {value}, but ")), "{error}");
        }
        // The adapter that the run started from decides.
        let of_adapter = TrainConfig { adapter: Some("a".to_owned()), ..config.clone() };
        assert!(changed(&of_adapter, &TrainConfig { rank: 3, ..of_adapter.clone() }).unwrap().0.is_empty());
    }

    #[test]
    fn keys_that_affect_the_validation_loss_are_recognised() {
        let (sft, dpo) = (TrainConfig::default(), TrainConfig { recipe: Recipe::Dpo, ..TrainConfig::default() });
        let keys = |old: &TrainConfig, new: TrainConfig| changed(old, &new).unwrap().1;
        assert_eq!(keys(&sft, TrainConfig { val_batches: 3, learning_rate: 1.0, ..sft.clone() }), ["`val_batches`"]);
        let other = TrainConfig { beta: 0.5, label_smoothing: 0.1, ..dpo.clone() };
        assert_eq!(keys(&dpo, other.clone()), ["`beta`", "`label_smoothing`"]);
        // The training changes too, so there is a note.
        assert!(changed(&dpo, &other).unwrap().0[0].contains("the run will differ"));
        assert_eq!(changed(&sft, &TrainConfig { beta: 0.5, ..sft.clone() }).unwrap(), (Vec::new(), Vec::new()));
        // If all rows are validated, the batch size does not matter.
        assert!(keys(&sft, TrainConfig { batch_size: 7, ..sft.clone() }).is_empty());
        let some = TrainConfig { val_batches: 3, ..sft };
        assert_eq!(keys(&some, TrainConfig { batch_size: 7, ..some.clone() }), ["`batch_size`"]);
    }
}
