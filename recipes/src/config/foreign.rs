//! Values of other programs in our terms.

use serde_json::{Value, json};

use super::Kind;
use super::alias::{Meaning, meaning};
use super::key::Key;

/// How a key of another program is read.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// It is none of theirs.
    Own,
    /// As these keys of ours.
    As(Vec<(&'static str, Value)>),
    /// It changes nothing; a line for the user, where it was asked for something.
    Ignored(Option<String>),
}

/// Reads a key that may be another program's.
///
/// # Errors
/// Why it can't be honoured.
pub(super) fn read(name: &str, value: &Value) -> Result<Reading, String> {
    if let Some(reading) = axolotl_adapter(name, value)? {
        return Ok(reading);
    }
    let Some(meaning) = meaning(name) else { return Ok(Reading::Own) };
    if value.is_null() {
        return Ok(Reading::Ignored(None));
    }
    match meaning {
        Meaning::Same(own) => Ok(Reading::As(vec![(own, value.clone())])),
        Meaning::Ignored(why) => Ok(Reading::Ignored((!is_off(value)).then(|| format!("`{name}` changes nothing: {why}")))),
        Meaning::NotYet(_) if is_off(value) => Ok(Reading::Ignored(None)),
        Meaning::NotYet(why) => Err(format!("can't be honoured: {why}")),
        Meaning::Translated => translated(name, value),
    }
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "none" | "no" | "false"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn translated(name: &str, value: &Value) -> Result<Reading, String> {
    let one = |key, value: Value| Ok(Reading::As(vec![(key, value)]));
    let nothing = Ok(Reading::Ignored(None));
    match name {
        "lora_parameters" => lora_parameters(value),
        "datasets" => datasets(value),
        "warmup_steps" => match value.as_u64() {
            Some(steps) => one("warmup", steps.into()),
            None => Err(unfit(value, "a whole number from 0")),
        },
        "warmup_ratio" => match value.as_f64() {
            Some(share) if (0.0..1.0).contains(&share) => one("warmup", share.into()),
            _ => Err(unfit(value, "a share of all steps, from 0 to below 1")),
        },
        "resume_from_checkpoint" => match value {
            Value::Bool(true) => one("resume", "auto".into()),
            Value::Bool(false) => one("resume", "none".into()),
            _ => one("resume", value.clone()),
        },
        "lora_target_linear" if boolean(value)? => one("target_modules", "all-linear".into()),
        "full_finetuning" if boolean(value)? => one("fine_tune_type", "full".into()),
        "train_on_inputs" | "train_on_prompt" => one("mask_prompt", (!boolean(value)?).into()),
        "bf16" | "fp16" if value == "auto" => one("dtype", "auto".into()),
        "bf16" if boolean(value)? => one("dtype", "bf16".into()),
        "fp16" if boolean(value)? => one("dtype", "f16".into()),
        "lora_target_linear" | "full_finetuning" | "bf16" | "fp16" => nothing,
        "eval_strategy" | "evaluation_strategy" => strategy(value, "steps_per_eval"),
        "save_strategy" => strategy(value, "save_every"),
        "stage" if value == "sft" => nothing,
        "stage" => Err(unfit(value, "\"sft\"")),
        "bias" if value == "none" => nothing,
        "bias" => Err(unfit(value, "\"none\": biases are not trained")),
        _ => Ok(Reading::Own),
    }
}

/// axolotl's `adapter` is the kind of fine-tuning; ours is a folder.
fn axolotl_adapter(name: &str, value: &Value) -> Result<Option<Reading>, String> {
    match (name, value.as_str()) {
        ("adapter", Some(kind @ ("lora" | "qlora"))) if !std::path::Path::new(kind).exists() => match kind {
            "lora" => Ok(Some(Reading::As(vec![("fine_tune_type", "lora".into())]))),
            _ => Err("can't be honoured: quantised bases are not part of this version; \"lora\" trains on the full weights"
                .into()),
        },
        _ => Ok(None),
    }
}

/// mlx-lm's `scale` is the factor itself, not alpha: alpha = scale · rank.
fn lora_parameters(value: &Value) -> Result<Reading, String> {
    let Value::Object(parameters) = value else { return Err(unfit(value, "a table with rank, scale and dropout")) };
    let mut keys = Vec::new();
    let number = |name: &str, default: f64| match parameters.get(name) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("has `{name}` {value}, wanted is a number")),
    };
    // What mlx-lm takes when one is left out.
    let (rank, scale, dropout) = (number("rank", 8.0)?, number("scale", 20.0)?, number("dropout", 0.0)?);
    if rank.fract() != 0.0 || rank < 1.0 {
        return Err(format!("has `rank` {rank}, wanted is a whole number from 1"));
    }
    keys.push(("rank", json!(rank as u64)));
    keys.push(("alpha", json!(scale * rank)));
    keys.push(("dropout", json!(dropout)));
    if let Some(names) = parameters.get("keys") {
        keys.push(("target_modules", names.clone()));
    }
    match parameters.keys().find(|part| !["rank", "scale", "dropout", "keys"].contains(&part.as_str())) {
        Some(part) => Err(format!("has an unknown part `{part}`; `rank`, `alpha` and `dropout` can stand outside of it")),
        None => Ok(Reading::As(keys)),
    }
}

/// axolotl names data sets in a list; their `type` is told from the rows here.
fn datasets(value: &Value) -> Result<Reading, String> {
    match value.as_array().map(Vec::as_slice) {
        Some([set]) => match set.get("path") {
            Some(path) => Ok(Reading::As(vec![("data", path.clone())])),
            None => Err("has no `path` in its entry".into()),
        },
        Some(sets) => Err(format!("has {} entries, wanted is one; put the rows into one file", sets.len())),
        None => Err(unfit(value, "a list with one entry that has a `path`")),
    }
}

fn strategy(value: &Value, key: &'static str) -> Result<Reading, String> {
    match value.as_str() {
        Some("steps") => Ok(Reading::Ignored(None)),
        Some("no") => Ok(Reading::As(vec![(key, 0.into())])),
        _ => Err(unfit(value, &format!("\"steps\" or \"no\"; {key} counts optimizer steps"))),
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| unfit(value, "true or false"))
}

/// A sentence that follows the key's name.
pub(super) fn unfit(value: &Value, wanted: &str) -> String {
    format!("is {value}, wanted is {wanted}")
}

/// A value in the form that our key wants.
pub(super) fn value_for(key: &Key, value: Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    match key.name {
        // "No limit" of the others.
        "iters" | "num_layers" | "val_batches" | "save_total_limit" if value.as_i64() == Some(-1) => 0.into(),
        "optimizer" if text.starts_with("adamw_torch") || text == "adamw_hf" => "adamw".into(),
        "dtype" if matches!(text, "float32" | "float16" | "bfloat16") => text.replace("float", "f").into(),
        "lr_scheduler" if text == "constant_with_warmup" => "constant".into(),
        "target_modules" if text == "all" => "all-linear".into(),
        _ if key.kind == Kind::Texts && text.contains(',') => text.split(',').map(|part| Value::from(part.trim())).collect(),
        _ => value,
    }
}
