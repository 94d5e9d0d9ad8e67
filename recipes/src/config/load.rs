//! Reads the configuration from a file and flags.

use std::collections::BTreeSet;
use std::path::Path;

use burnish_lora::read_config;
use burnish_models::encoding::text_of;
use serde_json::{Map, Value};

use super::TrainConfig;
use super::choice::{ADAPTER_KEYS, PREFERENCE_KEYS, QuantizationKind, Recipe};
use super::error::ConfigError;
use super::source::Keys;

/// A configuration, and how foreign keys were read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: TrainConfig,
    /// A note for each key of another program, and for each key without effect.
    pub notes: Vec<String>,
    /// The keys of ours that file, flags or variables set.
    pub given: BTreeSet<String>,
}

/// What a configuration must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Model and data.
    All,
    /// The model: for commands that read no rows.
    Model,
    /// Nothing: what is missing stays empty.
    Nothing,
}

/// Merges a file and flags over the defaults and checks the ranges.
///
/// # Errors
/// A [`ConfigError`] that names file and key; several problems are reported together.
pub fn load(file: Option<&Path>, flags: Map<String, Value>) -> Result<Loaded, ConfigError> {
    load_with(file, flags, &[], Needs::All)
}

/// The same with variables of the environment, which set what neither file nor flags do.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    file: Option<&Path>,
    flags: Map<String, Value>,
    variables: &[Variable],
    needs: Needs,
) -> Result<Loaded, ConfigError> {
    let mut errors = Vec::new();
    let in_file = file.map(read_file).transpose()?;
    let mut merged = Keys { recipe: recipe_of(&flags).or_else(|| in_file.as_ref().and_then(recipe_of)), ..Keys::default() };
    if let (Some(path), Some(map)) = (file, in_file) {
        merged.take(map, &format!("{}: ", path.display()), &mut errors);
    }
    merged.take(flags, "", &mut errors);
    let Keys { mut values, mut notes, .. } = merged;
    if !errors.is_empty() {
        return Err(together(errors));
    }
    notes.extend(variables.iter().map(|variable| variable.set(&mut values)));
    let mut config: TrainConfig = serde_json::from_value(Value::Object(values.clone()))
        .map_err(|error| ConfigError::Problems { problems: vec![error.to_string()] })?;
    check(&mut config, needs)?;
    if config.iters > 0 && values.get("epochs").is_some_and(|epochs| epochs != 1) {
        notes.push(format!("`epochs` has no effect, because `iters` is {}", config.iters));
    }
    if config.double_quant && config.quantization != QuantizationKind::Nf4 {
        notes.push("`double_quant` has no effect, because `quantization` is not nf4".to_owned());
    }
    let unread = PREFERENCE_KEYS.iter().filter(|key| values.contains_key(**key) && !is_refused(key, config.recipe));
    for key in unread.filter(|key| !config.recipe.preference_keys().contains(key) && !is_default(key, &values)) {
        notes.push(format!("`{key}` has no effect, because `recipe` is {}", config.recipe.name()));
    }
    notes.extend(take_adapter(&mut config, &values));
    let given = values.keys().cloned().collect();
    Ok(Loaded { config, notes, given })
}

/// Checks the values. What may be missing is not missed.
fn check(config: &mut TrainConfig, needs: Needs) -> Result<(), ConfigError> {
    const UNNAMED: &str = "-";
    let (no_data, no_model) = (config.data.is_empty(), config.model.is_empty() && config.model_config.is_none());
    if needs != Needs::All && no_data {
        UNNAMED.clone_into(&mut config.data);
    }
    if needs == Needs::Nothing && no_model {
        UNNAMED.clone_into(&mut config.model);
    }
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(ConfigError::Problems { problems });
    }
    if needs == Needs::Nothing {
        for (missing, value) in [(no_data, &mut config.data), (no_model, &mut config.model)] {
            if missing {
                value.clear();
            }
        }
    }
    Ok(())
}

/// A variable of the environment that sets a key, unless a file or a flag does.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key.
    pub key: &'static str,
    /// The key's value.
    pub value: Value,
}

impl Variable {
    /// Sets the key, and returns a note.
    fn set(&self, values: &mut Map<String, Value>) -> String {
        let Self { name, key, value } = self;
        let trains_all = values.get("fine_tune_type").is_some_and(|kind| kind == "full");
        match values.get(*key) {
            Some(set) => format!("`{name}` has no effect: `{key}` is {set}"),
            None if *key == "quantization" && trains_all => {
                format!("`{name}` has no effect: every weight is trained, as a float")
            }
            None => {
                values.insert((*key).to_owned(), value.clone());
                format!("`{name}` is read as `{key} = {value}`")
            }
        }
    }
}

/// Takes the values of the adapter that the run starts from, and returns a note for each key that has another one. An adapter that can't
/// be read is an error later.
fn take_adapter(config: &mut TrainConfig, given: &Map<String, Value>) -> Vec<String> {
    let Some(adapter) = config.adapter.as_ref().and_then(|adapter| read_config(adapter.as_ref()).ok()) else {
        return Vec::new();
    };
    let taken = config.with_adapter(adapter);
    let value = |config: &TrainConfig| serde_json::to_value(config).unwrap_or_default();
    let (before, now) = (value(config), value(&taken));
    *config = taken;
    let differs = |key: &&str| given.contains_key(*key) && before.get(*key) != now.get(*key);
    let note = |key: &str| format!("`{key}` has no effect, because `adapter` gives it");
    ADAPTER_KEYS.into_iter().filter(differs).map(note).collect()
}

/// Whether the recipe refuses values other than the default, rather than ignoring them.
fn is_refused(key: &str, recipe: Recipe) -> bool {
    key == "loss_type" || key == "label_smoothing" && recipe != Recipe::Sft
}

/// The recipe under its own key.
fn recipe_of(map: &Map<String, Value>) -> Option<Recipe> {
    let name = map.get("recipe")?.as_str()?;
    Recipe::ALL.into_iter().find(|recipe| recipe.name() == name)
}

fn is_default(key: &str, values: &Map<String, Value>) -> bool {
    let default = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
    default.get(key) == values.get(key)
}

/// The most bytes of a configuration, and the most characters in it that separate values: parsed values take much more memory than text.
const MOST_BYTES: usize = 1 << 20;
const MOST_VALUES: usize = 10_000;
/// The most values that YAML's aliases may repeat.
const MOST_REPEATED: usize = 1000;

fn check_size(text: &str) -> Result<(), String> {
    if text.len() > MOST_BYTES {
        return Err(format!("expected a configuration of at most {MOST_BYTES} bytes, got {}", text.len()));
    }
    let values = text.bytes().filter(|byte| b"=,:[{.\n\r".contains(byte)).count();
    if values > MOST_VALUES {
        return Err(format!("expected a configuration, got a file with about {values} values"));
    }
    Ok(())
}

fn of_yaml(text: &str) -> Result<Value, String> {
    let mut options = serde_saphyr::Options::default();
    options.alias_limits.max_total_replayed_events = MOST_REPEATED;
    if let Some(budget) = &mut options.budget {
        budget.max_total_scalar_bytes = 2 * MOST_BYTES;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Reads a TOML or YAML file into a map, unchanged.
///
/// # Errors
/// [`ConfigError::Io`] or [`ConfigError::Syntax`].
pub fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    let syntax = |reason: String| ConfigError::Syntax { path: path.to_owned(), reason };
    let text = text_of(&bytes).map_err(syntax)?;
    check_size(text).map_err(syntax)?;
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let value: Value = if is_yaml {
        of_yaml(text).map_err(syntax)?
    } else {
        toml::from_str(text).map_err(|error| syntax(error.to_string()))?
    };
    match value {
        // TOML has no null; serde_json turns `nan` and `inf` into one.
        Value::Object(map) if !is_yaml && map.values().any(Value::is_null) => {
            let keys: Vec<&str> = map.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.as_str()).collect();
            Err(syntax(format!("`{}` is not a finite number", keys.join("`, `"))))
        }
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(syntax("expected a table of keys".to_owned())),
    }
}

/// One error as it is, or several combined into one.
fn together(mut errors: Vec<ConfigError>) -> ConfigError {
    if errors.len() == 1 {
        return errors.remove(0);
    }
    let line = |error: &ConfigError| match error {
        ConfigError::UnknownKey { nearest: Some(nearest), .. } => format!("{error}, did you mean `{nearest}`?"),
        other => other.to_string(),
    };
    ConfigError::Problems { problems: errors.iter().map(line).collect() }
}
