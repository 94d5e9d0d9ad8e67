//! From a file and flags to the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::foreign::{self, Reading, unfit};
use super::{Key, Kind, TrainConfig};

/// What can be wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The file is no TOML or YAML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's complaint, with line and column.
        reason: String,
    },
    /// A key that means nothing here.
    #[error("{place}unknown key `{key}`")]
    UnknownKey {
        /// The file, or empty for a flag.
        place: String,
        /// The key.
        key: String,
        /// The nearest key there is.
        nearest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{place}`{key}` {reason}")]
    Value {
        /// The file, or empty for a flag.
        place: String,
        /// The key.
        key: String,
        /// What was wanted and what was found.
        reason: String,
    },
    /// Values out of range; all of them.
    #[error("{}", problems.join("\n  "))]
    Problems {
        /// A sentence each.
        problems: Vec<String>,
    },
}

/// A configuration, and what became of names that are not ours.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: TrainConfig,
    /// A line for each name that is not ours, and for what has no effect.
    pub notes: Vec<String>,
}

/// Merges a file and flags over the defaults and checks the ranges.
///
/// # Errors
/// A [`ConfigError`] that names file and key; several problems come together.
pub fn load(file: Option<&Path>, flags: Map<String, Value>) -> Result<Loaded, ConfigError> {
    let mut merged = Keys::default();
    let mut errors = Vec::new();
    if let Some(path) = file {
        merged.take(read_file(path)?, &format!("{}: ", path.display()), &mut errors);
    }
    merged.take(flags, "", &mut errors);
    let Keys { values, mut notes } = merged;
    if !errors.is_empty() {
        return Err(together(errors));
    }
    let config: TrainConfig = serde_json::from_value(Value::Object(values.clone()))
        .map_err(|error| ConfigError::Problems { problems: vec![error.to_string()] })?;
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(ConfigError::Problems { problems });
    }
    if config.iters > 0 && values.get("epochs").is_some_and(|epochs| epochs != 1) {
        notes.push(format!("`epochs` is not used: `iters` says {} steps", config.iters));
    }
    Ok(Loaded { config, notes })
}

/// Reads a TOML or YAML file into a map, as it stands.
///
/// # Errors
/// [`ConfigError::Io`] or [`ConfigError::Syntax`].
pub fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    let syntax = |reason: String| ConfigError::Syntax { path: path.to_owned(), reason };
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let value: Value = if is_yaml {
        serde_saphyr::from_str(&text).map_err(|error| syntax(error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| syntax(error.to_string()))?
    };
    match value {
        // TOML has no null: serde_json makes one of `nan` and `inf`.
        Value::Object(map) if !is_yaml && map.values().any(Value::is_null) => {
            let keys: Vec<&str> = map.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.as_str()).collect();
            Err(syntax(format!("`{}` is not a finite number", keys.join("`, `"))))
        }
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(syntax("is no table of keys".to_owned())),
    }
}

/// One error as it is, several in one.
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

/// Values under our own names.
#[derive(Default)]
struct Keys {
    values: Map<String, Value>,
    notes: Vec<String>,
}

impl Keys {
    /// Takes all keys of one source; they overrule those of earlier ones.
    fn take(&mut self, map: Map<String, Value>, place: &str, errors: &mut Vec<ConfigError>) {
        let mut source = Source::default();
        for (key, value) in map {
            let name = key.replace('-', "_");
            let wrong = |reason: String| ConfigError::Value { place: place.to_owned(), key: key.clone(), reason };
            match foreign::read(&name, &value) {
                Err(reason) => errors.push(wrong(reason)),
                Ok(Reading::Ignored(note)) => self.notes.extend(note),
                Ok(Reading::As(keys)) => {
                    let mut became = Vec::new();
                    for (own, value) in keys {
                        match source.set(own, &name, value) {
                            Ok(Some(value)) => became.push(format!("`{own} = {value}`")),
                            Ok(None) => {}
                            Err(reason) => errors.push(wrong(reason)),
                        }
                    }
                    if !became.is_empty() {
                        let why = if name == "lora_parameters" { " (alpha = scale * rank)" } else { "" };
                        self.notes.push(format!("`{key}` is read as {}{why}", became.join(", ")));
                    }
                }
                Ok(Reading::Own) if is_key(&name) => {
                    if let Err(reason) = source.set(&name, &name, value) {
                        errors.push(wrong(reason));
                    }
                }
                Ok(Reading::Own) => {
                    errors.push(ConfigError::UnknownKey { place: place.to_owned(), nearest: nearest(&name), key });
                }
            }
        }
        let accumulates = source.values.get("grad_accumulation_steps").is_some_and(|steps| steps != 1);
        if source.is_mlx && accumulates && source.values.contains_key("iters") {
            self.notes.push("`iters` counts optimizer steps here; mlx-lm counts micro-steps".to_owned());
        }
        self.values.extend(source.values);
    }
}

/// The keys of a file, or of the command line.
#[derive(Default)]
struct Source {
    values: Map<String, Value>,
    /// Under which name each was given.
    given_as: BTreeMap<String, String>,
    /// Whether it speaks mlx-lm.
    is_mlx: bool,
}

impl Source {
    /// Sets a key and returns its value; `None` leaves the default.
    fn set(&mut self, own: &str, given_as: &str, value: Value) -> Result<Option<Value>, String> {
        let Some(key) = TrainConfig::KEYS.iter().find(|key| key.name == own) else {
            return Err(format!("leads to `{own}`, which is no key"));
        };
        self.is_mlx |= matches!(given_as, "lora_parameters" | "lora_layers" | "adapter_path" | "resume_adapter_file");
        if value.is_null() {
            return Ok(None);
        }
        let mut value = foreign::value_for(key, value);
        check(key, &value)?;
        if key.kind == Kind::Float {
            // 32 and 32.0 are the same.
            value = value.as_f64().map_or(value, Value::from);
        }
        if let (Some(before), Some(name)) = (self.values.get(own), self.given_as.get(own)) {
            // Of warmup_steps and warmup_ratio, the one that is 0 says nothing.
            if own == "warmup" && value.as_f64() == Some(0.0) {
                return Ok(None);
            }
            let silent = own == "warmup" && before.as_f64() == Some(0.0);
            if !silent && *before != value {
                return Err(format!("is {value}, but `{name}` says {before}: both are `{own}`"));
            }
        }
        self.values.insert(own.to_owned(), value.clone());
        self.given_as.insert(own.to_owned(), given_as.to_owned());
        Ok(Some(value))
    }
}

fn is_key(name: &str) -> bool {
    TrainConfig::KEYS.iter().any(|key| key.name == name)
}

/// Whether a value is what the key takes.
fn check(key: &Key, value: &Value) -> Result<(), String> {
    let fits = match key.kind {
        Kind::Bool => value.is_boolean(),
        Kind::Integer => value.as_u64().is_some(),
        Kind::Float => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::Texts => value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
    };
    if !fits {
        return Err(unfit(value, wanted(key.kind)));
    }
    match choices(key.name) {
        Some(known) if !value.as_str().is_some_and(|text| known.contains(&text)) => {
            Err(unfit(value, &format!("one of {}", known.join(", "))))
        }
        _ => Ok(()),
    }
}

/// What a key may be, where its text is one of a few.
fn choices(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "fine_tune_type" => &["lora", "full"],
        "lr_scheduler" => &["constant", "linear", "cosine"],
        "optimizer" => &["adamw"],
        "dtype" => burnish_backends::dtype::NAMES,
        "backend" => burnish_backends::NAMES,
        _ => return None,
    })
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Integer => "a whole number from 0",
        Kind::Float => "a number",
        Kind::Text => "a text",
        Kind::Texts => "a text or a list of texts",
    }
}

/// The key most like a misspelt one.
fn nearest(key: &str) -> Option<String> {
    let names = TrainConfig::KEYS.iter().map(|key| key.name).chain(super::FOREIGN.iter().map(|(name, _)| *name));
    names
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        // Of two equally like, the earlier: our own names come first.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, name)| name.to_owned())
}
