//! Reads the configuration from a file and flags.

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
}

/// Merges a file and flags over the defaults and checks the ranges.
///
/// # Errors
/// A [`ConfigError`] that names file and key; several problems are reported together.
pub fn load(file: Option<&Path>, flags: Map<String, Value>) -> Result<Loaded, ConfigError> {
    read(file, flags, true)
}

/// The same for commands that read no rows: `data` may be missing.
///
/// # Errors
/// As [`load`].
pub fn load_without_data(file: Option<&Path>, flags: Map<String, Value>) -> Result<Loaded, ConfigError> {
    read(file, flags, false)
}

fn read(file: Option<&Path>, flags: Map<String, Value>, needs_data: bool) -> Result<Loaded, ConfigError> {
    let mut errors = Vec::new();
    let in_file = file.map(read_file).transpose()?;
    let mut merged = Keys { recipe: recipe_of(&flags).or_else(|| in_file.as_ref().and_then(recipe_of)), ..Keys::default() };
    if let (Some(path), Some(map)) = (file, in_file) {
        merged.take(map, &format!("{}: ", path.display()), &mut errors);
    }
    merged.take(flags, "", &mut errors);
    let Keys { values, mut notes, .. } = merged;
    if !errors.is_empty() {
        return Err(together(errors));
    }
    let mut config: TrainConfig = serde_json::from_value(Value::Object(values.clone()))
        .map_err(|error| ConfigError::Problems { problems: vec![error.to_string()] })?;
    if !needs_data && config.data.is_empty() {
        "-".clone_into(&mut config.data);
    }
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(ConfigError::Problems { problems });
    }
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
    Ok(Loaded { config, notes })
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

/// Reads a TOML or YAML file into a map, unchanged.
///
/// # Errors
/// [`ConfigError::Io`] or [`ConfigError::Syntax`].
pub fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    let syntax = |reason: String| ConfigError::Syntax { path: path.to_owned(), reason };
    let text = text_of(&bytes).map_err(syntax)?;
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let value: Value = if is_yaml {
        serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?
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
