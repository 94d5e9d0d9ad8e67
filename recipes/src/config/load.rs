//! From a file and flags to the configuration.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TrainConfig;
use super::source::Keys;

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
