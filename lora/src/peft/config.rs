//! `adapter_config.json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burnish_models::recognise::is_mlx_adapter;
use serde_json::{Map, Value, json};

use super::{CONFIG, keys};
use crate::attach::layer_index;
use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};
use crate::pattern;

/// The largest rank that is read; what the layers can use is less.
const MOST_RANK: u64 = 65_536;

/// Which layers have an adapter, as PEFT's configuration says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Adapted {
    pub(super) target_modules: Vec<String>,
    /// The blocks, where not all of them.
    pub(super) layers_to_transform: Option<Vec<usize>>,
}

impl Adapted {
    /// From the layers that have one, and all layers that might. Names and blocks apart serve where every block has the same
    /// ones; else each layer is named in full.
    pub(super) fn of(adapted: &[String], layers: &[String]) -> Self {
        let split = |names: &[String]| -> (BTreeSet<usize>, BTreeSet<String>) {
            let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
            (names.iter().filter_map(|name| layer_index(name)).collect(), names.iter().map(last).collect())
        };
        let (blocks, parts) = split(adapted);
        let (all_blocks, _) = split(layers);
        let meant = layers.iter().filter(|layer| {
            layer_index(layer).is_some_and(|block| blocks.contains(&block))
                && layer.rsplit('.').next().is_some_and(|part| parts.contains(part))
        });
        if meant.count() != adapted.len() {
            return Self { target_modules: adapted.to_vec(), layers_to_transform: None };
        }
        let some = (blocks != all_blocks).then(|| blocks.into_iter().collect());
        Self { target_modules: parts.into_iter().collect(), layers_to_transform: some }
    }
}

/// `adapter_config.json` as PEFT 0.21 reads it.
pub(super) fn to_json(config: &LoraConfig, base_model: &str, adapted: &Adapted) -> Value {
    let layers = &adapted.layers_to_transform;
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "target_modules": adapted.target_modules,
        "rank_pattern": pattern::write(&config.rank_pattern, |rank| json!(rank)),
        "alpha_pattern": pattern::write(&config.alpha_pattern, number),
        "layers_to_transform": layers,
        "layers_pattern": layers.as_ref().map(|_| "layers"),
        "modules_to_save": null,
    })
}

/// An integer where the value is whole: PEFT declares alpha as one, and Ollama reads nothing else.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT { json!(value as i64) } else { json!(value) }
}

/// Reads `adapter_config.json`. Which blocks have adapters, their tensors say: `num_layers` stays unset.
///
/// Every key of PEFT's `LoraConfig` is read, known to be harmless, or refused by name where it asks for something else than
/// LoRA as computed here. Of unknown keys [`config_notes`] tells.
///
/// # Errors
/// When the file is missing, malformed, of MLX, or asks for something that is not LoRA as computed here.
pub fn read_config(folder: &Path) -> Result<LoraConfig> {
    read(folder).map(|(config, _)| config)
}

/// What the user should know of an `adapter_config.json` that can be read: keys that are not known and were ignored.
///
/// # Errors
/// As [`read_config`].
pub fn config_notes(folder: &Path) -> Result<Vec<String>> {
    read(folder).map(|(_, notes)| notes)
}

fn read(folder: &Path) -> Result<(LoraConfig, Vec<String>)> {
    let path = folder.join(CONFIG);
    if !path.exists()
        && let Some(reason) = no_adapter(folder)
    {
        return Err(LoraError::format(folder, reason));
    }
    let text = fs::read_to_string(&path).map_err(|error| LoraError::io(&path, error))?;
    let refuse = |reason: String| LoraError::format(&path, reason);
    let json: Value = serde_json::from_str(&text).map_err(|error| refuse(format!("not JSON: {error}")))?;
    if is_mlx_adapter(&json) {
        let way_out = "mlx_lm.fuse merges it into its model, whose folder can then be the model";
        return Err(LoraError::format(folder, format!("this is an adapter of MLX, and PEFT adapters are read; {way_out}")));
    }
    let json = json.as_object().ok_or_else(|| refuse("not a JSON object".into()))?;
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => return Err(refuse(format!("`peft_type` is {other}, and adapters of type LORA are read"))),
        None => return Err(refuse("has no `peft_type`: it is not the configuration of a PEFT adapter".into())),
    }
    let notes = keys::check(json).map_err(refuse)?;
    for note in &notes {
        tracing::warn!("{}: {note}", path.display());
    }
    let config = of_json(json).map_err(|reason| LoraError::format(&path, reason))?;
    config.check()?;
    Ok((config, notes))
}

/// What a folder is that has no adapter.
fn no_adapter(folder: &Path) -> Option<String> {
    let has = |name: &str| folder.join(name).exists();
    if has("adapter/adapter_config.json") {
        return Some("is a run folder, whose adapter is in `adapter` there".into());
    }
    if has("adapters.safetensors") || has("adapters.npz") {
        return Some(format!("has an adapter of MLX without its {CONFIG}, and PEFT adapters are read"));
    }
    has("config.json").then(|| format!("is a model, not an adapter: it has no {CONFIG}"))
}

fn of_json(json: &Map<String, Value>) -> std::result::Result<LoraConfig, String> {
    let rank = |value: &Value| value.as_u64().filter(|rank| (1..=MOST_RANK).contains(rank)).map(|rank| rank as usize);
    let r = json.get("r").ok_or("`r` is missing")?;
    // Absent keys have PEFT's defaults.
    let number = |key: &str, default: f64| match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("`{key}` is {value}, not a number")),
    };
    let map = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(value) => Err(format!("`{key}` is {value}, not an object")),
    };
    let rslora = match json.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| format!("`use_rslora` is {value}, not true or false"))?,
    };
    let target_modules = match json.get("target_modules") {
        Some(value @ (Value::String(_) | Value::Array(_))) => serde_json::from_value(value.clone())
            .map_err(|_| "`target_modules` is neither a name nor a list of names".to_owned())?,
        _ => TargetModules::all_linear(),
    };
    Ok(LoraConfig {
        rank: rank(r).ok_or_else(|| format!("`r` is {r}, not a whole number from 1 to {MOST_RANK}"))?,
        alpha: number("lora_alpha", 8.0)?,
        dropout: number("lora_dropout", 0.0)?,
        rslora,
        target_modules,
        num_layers: None,
        rank_pattern: pattern::read(&map("rank_pattern")?, rank).map_err(|reason| format!("`rank_pattern`: {reason}"))?,
        alpha_pattern: pattern::read(&map("alpha_pattern")?, Value::as_f64)
            .map_err(|reason| format!("`alpha_pattern`: {reason}"))?,
    })
}

#[cfg(test)]
mod tests;
