//! From a file and flags to the configuration.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::alias::{NOT_YET, canonical};
use super::key::Kind;
use super::{Key, TrainConfig};

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
    /// A line for each alias that was used.
    pub notes: Vec<String>,
}

/// Merges a file and flags over the defaults and checks the ranges.
///
/// # Errors
/// A [`ConfigError`] that names file and key.
pub fn load(file: Option<&Path>, flags: Map<String, Value>) -> Result<Loaded, ConfigError> {
    let mut notes = Vec::new();
    let mut merged = Map::new();
    if let Some(path) = file {
        let place = format!("{}: ", path.display());
        for (key, value) in canonical_keys(read_file(path)?, &place, &mut notes)? {
            merged.insert(key, value);
        }
    }
    for (key, value) in canonical_keys(flags, "", &mut notes)? {
        merged.insert(key, value);
    }
    let config: TrainConfig = serde_json::from_value(Value::Object(merged))
        .map_err(|error| ConfigError::Problems { problems: vec![error.to_string()] })?;
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(ConfigError::Problems { problems });
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
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(syntax("is no table of keys".to_owned())),
    }
}

/// Replaces other programs' names, and checks every key and the kind of its value.
fn canonical_keys(
    mut map: Map<String, Value>,
    place: &str,
    notes: &mut Vec<String>,
) -> Result<Map<String, Value>, ConfigError> {
    expand(&mut map, notes);
    let mut known = Map::new();
    for (key, value) in map {
        let key = key.replace('-', "_");
        if let Some((_, reason)) = NOT_YET.iter().find(|(name, _)| *name == key) {
            let off = matches!(value, Value::Bool(false) | Value::Null) || value.as_str() == Some("none");
            if off {
                continue;
            }
            return Err(ConfigError::Value { place: place.to_owned(), key, reason: format!("can't be honoured: {reason}") });
        }
        let name = match canonical(&key) {
            Some(own) => {
                notes.push(format!("`{key}` is read as `{own}`"));
                own
            }
            None => key.as_str(),
        };
        let Some(entry) = TrainConfig::KEYS.iter().find(|entry| entry.name == name) else {
            return Err(ConfigError::UnknownKey { place: place.to_owned(), nearest: nearest(&key), key });
        };
        let value = translate(entry, &key, value).map_err(|reason| ConfigError::Value {
            place: place.to_owned(),
            key: key.clone(),
            reason,
        })?;
        if let Some(value) = value {
            known.insert(entry.name.to_owned(), value);
        }
    }
    Ok(known)
}

/// Keys of others that hold several of ours.
fn expand(map: &mut Map<String, Value>, notes: &mut Vec<String>) {
    // mlx-lm's `scale` is the factor itself, not alpha: alpha = scale · rank.
    if let Some(Value::Object(parameters)) = map.remove("lora_parameters") {
        let rank = parameters.get("rank").and_then(Value::as_f64).unwrap_or(8.0);
        if let Some(scale) = parameters.get("scale").and_then(Value::as_f64) {
            notes.push(format!("mlx-lm's `scale` {scale} is read as `alpha` {} (scale · rank)", scale * rank));
            map.insert("alpha".to_owned(), Value::from(scale * rank));
        }
        map.insert("rank".to_owned(), Value::from(rank as u64));
        if let Some(dropout) = parameters.get("dropout") {
            map.insert("dropout".to_owned(), dropout.clone());
        }
    }
    // axolotl names data sets in a list.
    if let Some(Value::Array(sets)) = map.get("datasets")
        && let Some(path) = sets.first().and_then(|set| set.get("path")).cloned()
    {
        notes.push("`datasets[0].path` is read as `data`".to_owned());
        map.remove("datasets");
        map.insert("data".to_owned(), path);
    }
    if map.get("lora_target_linear").and_then(Value::as_bool) == Some(true) {
        notes.push("`lora_target_linear` is read as `target_modules = \"all-linear\"`".to_owned());
        map.remove("lora_target_linear");
        map.insert("target_modules".to_owned(), Value::from("all-linear"));
    }
    if let Some(optimizer) = map.remove("optim") {
        map.entry("optimizer").or_insert(optimizer);
    }
}

/// A value in the form that the key wants; `None` leaves the default.
fn translate(key: &Key, given_as: &str, value: Value) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    // "No limit" of the others: -1 steps, -1 layers.
    if matches!(key.name, "iters" | "num_layers") && value.as_i64() == Some(-1) {
        return Ok(Some(Value::from(0)));
    }
    if key.name == "optimizer" && value.as_str().is_some_and(|name| name.starts_with("adamw_torch")) {
        return Ok(Some(Value::from("adamw")));
    }
    if given_as == "lora_target" && value.as_str() == Some("all") {
        return Ok(Some(Value::from("all-linear")));
    }
    if given_as == "resume_from_checkpoint"
        && let Some(flag) = value.as_bool()
    {
        return Ok(Some(Value::from(if flag { "auto" } else { "none" })));
    }
    let fits = match key.kind {
        Kind::Bool => value.is_boolean(),
        Kind::Integer => value.as_u64().is_some(),
        Kind::Float => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::Texts => value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
    };
    if !fits {
        return Err(format!("is {value}, wanted is {}", wanted(key.kind)));
    }
    choices(key.name, &value)?;
    Ok(Some(value))
}

/// Keys whose text is one of a few.
fn choices(name: &str, value: &Value) -> Result<(), String> {
    let known: &[&str] = match name {
        "fine_tune_type" => &["lora", "full"],
        "lr_scheduler" => &["constant", "linear", "cosine"],
        "optimizer" => &["adamw"],
        "backend" => crate::backend::NAMES,
        _ => return Ok(()),
    };
    match value.as_str() {
        Some(text) if known.contains(&text) => Ok(()),
        _ => Err(format!("is {value}, wanted is one of {}", known.join(", "))),
    }
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
    let names = TrainConfig::KEYS.iter().map(|key| key.name).chain(super::ALIASES.iter().map(|(alias, _)| *alias));
    names
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flags(value: &Value) -> Map<String, Value> {
        let mut map = json!({ "model": "m", "data": "d" }).as_object().cloned().unwrap();
        map.extend(value.as_object().cloned().unwrap());
        map
    }

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let (_folder, path) = written("c.toml", "model = 'file'\ndata = 'd'\nrank = 4\nbatch_size = 3\n");
        let loaded = load(Some(&path), json!({ "rank": 2 }).as_object().cloned().unwrap()).unwrap();
        assert_eq!((loaded.config.rank, loaded.config.batch_size, loaded.config.seed), (2, 3, 42));
    }

    #[test]
    fn yaml_says_the_same_as_toml() {
        let (_a, toml) = written(
            "c.toml",
            "model = 'm'\ndata = 'd'\nlearning_rate = 1e-3\npacking = true\ntarget_modules = ['q_proj']\n",
        );
        let (_b, yaml) =
            written("c.yaml", "model: m\ndata: d\nlearning_rate: 1.0e-3\npacking: true\ntarget_modules: [q_proj]\n");
        assert_eq!(load(Some(&toml), Map::new()).unwrap().config, load(Some(&yaml), Map::new()).unwrap().config);
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest() {
        let (_folder, path) = written("c.toml", "model = 'm'\ndata = 'd'\nlearning_rte = 1e-3\n");
        match load(Some(&path), Map::new()).unwrap_err() {
            ConfigError::UnknownKey { key, nearest, .. } => {
                assert_eq!((key.as_str(), nearest.as_deref()), ("learning_rte", Some("learning_rate")));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_alias_reaches_a_key_that_exists() {
        for (alias, own) in crate::config::ALIASES {
            assert!(TrainConfig::KEYS.iter().any(|key| key.name == *own), "{alias} leads to {own}");
            assert!(!TrainConfig::KEYS.iter().any(|key| key.name == *alias), "{alias} is a key already");
        }
    }

    #[test]
    fn the_scale_of_mlx_is_not_alpha() {
        let loaded = load(None, flags(&json!({ "lora_parameters": { "rank": 8, "scale": 20.0, "dropout": 0.1 } }))).unwrap();
        assert_eq!((loaded.config.rank, loaded.config.alpha, loaded.config.dropout), (8, 160.0, 0.1));
        assert!(loaded.notes.iter().any(|note| note.contains("alpha")));
    }

    #[test]
    fn names_of_others_are_read_and_said() {
        let loaded =
            load(None, flags(&json!({ "lora_r": 3, "max_steps": -1, "optim": "adamw_torch", "lora_target": "all" })))
                .unwrap();
        assert_eq!((loaded.config.rank, loaded.config.iters), (3, 0));
        assert!(loaded.notes.contains(&"`lora_r` is read as `rank`".to_owned()));
        let error = load(None, flags(&json!({ "load_in_4bit": true }))).unwrap_err().to_string();
        assert!(error.contains("not part of this version"), "{error}");
    }

    #[test]
    fn wrong_kinds_and_ranges_are_named() {
        let error = |value: Value| load(None, flags(&value)).unwrap_err().to_string();
        assert!(error(json!({ "rank": "many" })).contains("a whole number"));
        assert!(error(json!({ "lr_scheduler": "zigzag" })).contains("constant, linear, cosine"));
        let both = error(json!({ "batch_size": 0, "dropout": 1.5 }));
        assert!(both.contains("`batch_size` is 0") && both.contains("`dropout` is 1.5"), "{both}");
    }
}
