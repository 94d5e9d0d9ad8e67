//! `adapter_config.json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burnish_models::encoding::text_of;
use burnish_models::json::{MOST_OF_CONFIG, check_size};
use serde_json::{Map, Value, json};

use super::keys;
use super::names::CONFIG;
use crate::config::{LoraConfig, TargetModules};
use crate::error::{LoraError, Result};
use crate::pattern;
use crate::sites::block_index;

/// The largest rank that is read; no layer can use more.
pub(crate) const MAX_RANK: u64 = 65_536;

/// Which layers have an adapter, in the keys of PEFT's configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AdaptedLayers {
    pub(super) target_modules: Vec<String>,
    pub(super) target_parameters: Vec<String>,
    /// The indices of the blocks; `None` means all of them.
    pub(super) layers_to_transform: Option<Vec<usize>>,
    /// Whether the embedding is trained as a whole, and is the head too.
    pub(super) is_tied: bool,
}

impl AdaptedLayers {
    /// Describes the layers `adapted` among all linear `layers` of the model. Where every adapted block has the same layers, the
    /// result lists their short names and the blocks; otherwise it lists each layer by its full name.
    pub(super) fn new(adapted: &[String], layers: &[String]) -> Self {
        let split = |names: &[String]| -> (BTreeSet<usize>, BTreeSet<String>) {
            let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
            (names.iter().filter_map(|name| block_index(name)).collect(), names.iter().map(last).collect())
        };
        let (blocks, parts) = split(adapted);
        let (all_blocks, _) = split(layers);
        let meant = layers.iter().filter(|layer| {
            block_index(layer).is_some_and(|block| blocks.contains(&block))
                && layer.rsplit('.').next().is_some_and(|part| parts.contains(part))
        });
        if meant.count() != adapted.len() {
            return Self { target_modules: adapted.to_vec(), ..Self::default() };
        }
        let some = (!adapted.is_empty() && blocks != all_blocks).then(|| blocks.into_iter().collect());
        Self { target_modules: parts.into_iter().collect(), layers_to_transform: some, ..Self::default() }
    }

    /// The targets that mean the parameters `adapted` among all that could be: their names within a block, where that is adapted in
    /// all blocks that have it, and otherwise whole names. PEFT does not read `layers_to_transform` for parameters.
    pub(super) fn parameters(adapted: &[String], all: &[String]) -> Vec<String> {
        let short = |name: &String| {
            let rest = block_index(name).and_then(|block| name.split_once(&format!("layers.{block}.")));
            rest.map_or_else(|| name.clone(), |(_, rest)| rest.to_owned())
        };
        let count = |names: &[String], name: &String| names.iter().filter(|own| short(own) == short(name)).count();
        let target = |name: &String| if count(adapted, name) == count(all, name) { short(name) } else { name.clone() };
        let mut targets: Vec<String> = adapted.iter().map(target).collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

/// `adapter_config.json` as PEFT 0.21 reads it.
///
/// Initial factors that were taken out of the base are in the file too, see [`LoraConfig::converted`].
pub(super) fn to_json(config: &LoraConfig, base_model: &str, adapted: &AdaptedLayers) -> Value {
    let layers = &adapted.layers_to_transform;
    let config = &config.converted();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "target_modules": adapted.target_modules,
        "target_parameters": Some(&adapted.target_parameters).filter(|names| !names.is_empty()),
        "rank_pattern": pattern::write(&config.rank_pattern, |rank| json!(rank)),
        "alpha_pattern": pattern::write(&config.alpha_pattern, number),
        "layers_to_transform": layers,
        "layers_pattern": layers.as_ref().map(|_| "layers"),
        "modules_to_save": Some(&config.modules_to_save).filter(|names| !names.is_empty()),
        "ensure_weight_tying": adapted.is_tied,
    })
}

/// A whole number is written as an integer: PEFT declares `lora_alpha` as one, and Ollama reads nothing else.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT { json!(value as i64) } else { json!(value) }
}

/// The configuration as the file has it: [`Init::changes_base`](crate::Init::changes_base) if the tensors are those of an
/// adapter on a base without its initial factors.
///
/// # Errors
/// If the file is missing or malformed, or asks for anything but the LoRA that is computed here.
pub(crate) fn read_stored(folder: &Path) -> Result<LoraConfig> {
    read(folder).map(|(config, _)| config)
}

/// Reads `adapter_config.json` and returns a note on each key that is unknown and ignored.
///
/// # Errors
/// As [`read_stored`].
pub(crate) fn config_notes(folder: &Path) -> Result<Vec<String>> {
    read(folder).map(|(_, notes)| notes)
}

fn read(folder: &Path) -> Result<(LoraConfig, Vec<String>)> {
    let path = folder.join(CONFIG);
    if !path.exists()
        && let Some(reason) = describe_other(folder)
    {
        return Err(LoraError::format(folder, reason));
    }
    let bytes = fs::read(&path).map_err(|error| LoraError::io(&path, error))?;
    let refuse = |reason: String| LoraError::format(&path, reason);
    let text = text_of(&bytes).map_err(refuse)?;
    check_size(text, MOST_OF_CONFIG).map_err(refuse)?;
    let json: Value = serde_json::from_str(text).map_err(|error| refuse(format!("not JSON: {error}")))?;
    let json = json.as_object().ok_or_else(|| refuse("not a JSON object".into()))?;
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => return Err(refuse(format!("`peft_type`: expected LORA, got {other}"))),
        None => return Err(refuse("this is not the configuration of a PEFT adapter: `peft_type` is missing".into())),
    }
    let notes = keys::check(json).map_err(refuse)?;
    for note in &notes {
        tracing::warn!("{}: {note}", path.display());
    }
    let config = of_json(json).map_err(|reason| LoraError::format(&path, reason))?;
    config.check()?;
    Ok((config, notes))
}

/// Says what a folder holds if it is not a PEFT adapter.
fn describe_other(folder: &Path) -> Option<String> {
    let has = |name: &str| folder.join(name).exists();
    if has("adapter/adapter_config.json") {
        return Some("this is a run folder; its adapter is in the folder `adapter` inside it".into());
    }
    if has("adapters.safetensors") || has("adapters.npz") {
        return Some(format!("this is an MLX adapter without its {CONFIG}"));
    }
    has("config.json").then(|| format!("this is a model, not an adapter: it has no {CONFIG}"))
}

fn of_json(json: &Map<String, Value>) -> std::result::Result<LoraConfig, String> {
    let rank = |value: &Value| value.as_u64().filter(|rank| (1..=MAX_RANK).contains(rank)).map(|rank| rank as usize);
    let r = json.get("r").ok_or("`r` is missing")?;
    // A key that is absent has PEFT's default.
    let number = |key: &str, default: f64| match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("`{key}`: expected a number, got {value}")),
    };
    let map = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(value) => Err(format!("`{key}`: expected an object, got {value}")),
    };
    let flag = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("`{key}`: expected true or false, got {value}")),
    };
    let names = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => serde_json::from_value::<Vec<String>>(value.clone())
            .map_err(|_| format!("`{key}`: expected a list of names, got {value}")),
    };
    let target_parameters = names("target_parameters")?;
    let target_modules = match json.get("target_modules") {
        Some(value @ (Value::String(_) | Value::Array(_))) => serde_json::from_value(value.clone())
            .map_err(|_| format!("`target_modules`: expected a name or a list of names, got {value}"))?,
        // With the targets of parameters alone, PEFT adapts no module.
        _ if !target_parameters.is_empty() => TargetModules::Named(Vec::new()),
        _ => TargetModules::all_linear(),
    };
    Ok(LoraConfig {
        rank: rank(r).ok_or_else(|| format!("`r`: expected a whole number from 1 to {MAX_RANK}, got {r}"))?,
        alpha: number("lora_alpha", 8.0)?,
        dropout: number("lora_dropout", 0.0)?,
        rslora: flag("use_rslora")?,
        target_modules,
        target_parameters,
        num_layers: None,
        rank_pattern: pattern::read(&map("rank_pattern")?, rank).map_err(|reason| format!("`rank_pattern`: {reason}"))?,
        alpha_pattern: pattern::read(&map("alpha_pattern")?, Value::as_f64)
            .map_err(|reason| format!("`alpha_pattern`: {reason}"))?,
        dora: flag("use_dora")?,
        init: keys::mutating_init(json),
        modules_to_save: names("modules_to_save")?,
    })
}

#[cfg(test)]
mod tests;
