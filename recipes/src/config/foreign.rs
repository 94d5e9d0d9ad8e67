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
    /// As this key of ours, where nothing else sets that.
    Yields(&'static str),
    /// It changes nothing; a sentence that follows its name, where it was asked for something.
    Ignored(Option<String>),
}

/// Reads a key that may be another program's.
///
/// # Errors
/// Why it can't be honoured.
pub(super) fn read(name: &str, value: &Value) -> Result<Reading, String> {
    if let Some(reading) = own_word(name, value)? {
        return Ok(reading);
    }
    let Some(meaning) = meaning(name) else { return Ok(Reading::Own) };
    if value.is_null() {
        return Ok(Reading::Ignored(None));
    }
    match meaning {
        Meaning::Same(own) => Ok(Reading::As(vec![(own, value.clone())])),
        Meaning::Yields(own) => Ok(Reading::Yields(own)),
        Meaning::Harmless(why) => Ok(Reading::Ignored(Some(format!("does nothing here: {why}")))),
        Meaning::Only(neutral, _) if neutral.iter().any(|text| is_text(value, text)) => Ok(Reading::Ignored(None)),
        Meaning::Only(_, why) => Err(format!("{value} can't be honoured: {why}")),
        Meaning::Refused(_) if is_off(value) => Ok(Reading::Ignored(None)),
        Meaning::Refused(why) => Err(format!("can't be honoured: {why}")),
        Meaning::Translated => translated(name, value),
    }
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.to_lowercase().as_str(), "" | "none" | "null" | "no" | "false" | "off"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_off),
    }
}

fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value.eq_ignore_ascii_case(text),
        other => other.to_string().as_str() == text,
    }
}

/// A number, or a text that is one: PyYAML reads `1e-5` as a text, and the others cast it.
pub(super) fn number(value: &Value) -> Option<f64> {
    let text = || value.as_str()?.replace('_', "").parse::<f64>().ok();
    value.as_f64().or_else(text).filter(|number| number.is_finite())
}

fn translated(name: &str, value: &Value) -> Result<Reading, String> {
    let one = |key, value: Value| Ok(Reading::As(vec![(key, value)]));
    let nothing = Ok(Reading::Ignored(None));
    match name {
        "lora_parameters" => lora_parameters(value),
        "dataset" | "local_dataset" => dataset(value),
        "datasets" => datasets(value, DATASETS),
        "hf_dataset" => datasets(value, HF_DATASET),
        "warmup_steps" => match number(value).filter(|steps| *steps >= 0.0 && steps.fract() == 0.0) {
            Some(steps) => one("warmup", steps.into()),
            None => Err(unfit(value, "a whole number from 0")),
        },
        "warmup_ratio" => match number(value) {
            Some(share) if (0.0..1.0).contains(&share) => one("warmup", share.into()),
            _ => Err(unfit(value, "a share of all steps, from 0 to below 1")),
        },
        "resume_from_checkpoint" => match value {
            Value::Bool(true) => one("resume", "auto".into()),
            Value::Bool(false) => one("resume", "none".into()),
            _ => one("resume", value.clone()),
        },
        "auto_resume_from_checkpoints" if boolean(value)? => one("resume", "auto".into()),
        "lora_target_linear" if boolean(value)? => one("target_modules", "all-linear".into()),
        "full_finetuning" if boolean(value)? => one("fine_tune_type", "full".into()),
        "disable_shuffling" if boolean(value)? => one("shuffle", false.into()),
        "train_on_inputs" | "train_on_prompt" => one("mask_prompt", (!boolean(value)?).into()),
        "bf16" | "fp16" if value == "auto" => one("dtype", "auto".into()),
        "bf16" | "pure_bf16" | "bfloat16" if boolean(value)? => one("dtype", "bf16".into()),
        "fp16" | "float16" if boolean(value)? => one("dtype", "f16".into()),
        "auto_resume_from_checkpoints"
        | "lora_target_linear"
        | "full_finetuning"
        | "disable_shuffling"
        | "bf16"
        | "pure_bf16"
        | "bfloat16"
        | "fp16"
        | "float16" => nothing,
        "eval_strategy" | "evaluation_strategy" => strategy(value, "steps_per_eval"),
        "save_strategy" => strategy(value, "save_every"),
        _ => Ok(Reading::Own),
    }
}

/// Words that are keys of ours too, and mean something else in another program.
fn own_word(name: &str, value: &Value) -> Result<Option<Reading>, String> {
    match (name, value.as_str()) {
        // axolotl's `adapter` is the kind of fine-tuning; ours is a folder.
        ("adapter", Some(kind @ ("lora" | "qlora"))) if !std::path::Path::new(kind).exists() => match kind {
            "lora" => Ok(Some(Reading::As(vec![("fine_tune_type", "lora".into())]))),
            _ => Err("can't be honoured: quantised bases are not part of this version; \"lora\" trains on the full weights"
                .into()),
        },
        // mlx-lm's Adam is AdamW that decays nothing.
        ("optimizer", Some("adam")) => {
            Ok(Some(Reading::As(vec![("optimizer", "adamw".into()), ("weight_decay", 0.0.into())])))
        }
        _ => Ok(None),
    }
}

/// mlx-lm's `scale` is the factor itself, not alpha: alpha = scale · rank.
fn lora_parameters(value: &Value) -> Result<Reading, String> {
    let Value::Object(parameters) = value else { return Err(unfit(value, "a table with rank, scale and dropout")) };
    let mut keys = Vec::new();
    let part = |name: &str, default: f64| match parameters.get(name) {
        None => Ok(default),
        Some(value) => number(value).ok_or_else(|| format!("has `{name}` {value}, wanted is a number")),
    };
    // What mlx-lm takes when one is left out.
    let (rank, scale, dropout) = (part("rank", 8.0)?, part("scale", 20.0)?, part("dropout", 0.0)?);
    if rank.fract() != 0.0 || rank < 1.0 {
        return Err(format!("has `rank` {rank}, wanted is a whole number from 1"));
    }
    keys.push(("rank", json!(rank as u64)));
    keys.push(("alpha", json!(scale * rank)));
    keys.push(("dropout", json!(dropout)));
    if let Some(names) = parameters.get("keys").filter(|names| !names.is_null()) {
        keys.push(("target_modules", names.clone()));
    }
    // Files of earlier versions have `alpha` beside `scale`, which alone counts.
    let known = |part: &str| ["rank", "scale", "dropout", "keys"].contains(&part);
    let known = |part: &str| known(part) || part == "alpha" && parameters.contains_key("scale");
    match parameters.keys().find(|part| !known(part)) {
        Some(part) => Err(format!("has an unknown part `{part}`; `rank`, `alpha` and `dropout` can stand outside of it")),
        None => Ok(Reading::As(keys)),
    }
}

/// A file or a hub id, or a list of one.
fn dataset(value: &Value) -> Result<Reading, String> {
    let listed: Vec<&str> = match value {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    match listed.as_slice() {
        [one] => Ok(Reading::As(vec![("data", (*one).into())])),
        [] => Err(unfit(value, "a file, a folder or a hub id")),
        sets => Err(format!("names {} data sets, and one is read; put the rows into one file", sets.len())),
    }
}

/// Parts of a data set's entry, and the values that ask for what is done anyway; with none, any value does.
type Parts = &'static [(&'static str, &'static [&'static str])];

/// axolotl's entries: what a row is, its keys tell here.
const DATASETS: Parts = &[
    ("type", &[]),
    ("ds_type", &[]),
    ("chat_template", &[]),
    ("roles", &[]),
    ("conversation", &[]),
    ("trust_remote_code", &[]),
    ("preprocess_shards", &[]),
    ("split", &["train"]),
    ("field", &["text"]),
    ("field_messages", &["messages", "conversations"]),
    ("field_tools", &["tools"]),
    ("message_field_role", &["role", "from"]),
    ("message_field_content", &["content", "value"]),
    ("message_property_mappings", &[r#"{"content":"content","role":"role"}"#, r#"{"content":"value","role":"from"}"#]),
    ("roles_to_train", &[r#"["assistant"]"#, r#"["gpt"]"#, r#"["assistant","gpt"]"#, r#"["gpt","assistant"]"#]),
    ("train_on_eos", &["turn"]),
];

/// mlx-lm's entries.
const HF_DATASET: Parts = &[
    ("train_split", &["train"]),
    ("valid_split", &["valid", "validation"]),
    ("test_split", &["test"]),
    ("prompt_feature", &["prompt"]),
    ("completion_feature", &["completion"]),
    ("text_feature", &["text"]),
    ("chat_feature", &["messages"]),
];

/// An entry that names a data set, or a list of one.
fn datasets(value: &Value, parts: Parts) -> Result<Reading, String> {
    let set = match value {
        Value::Array(sets) if sets.len() == 1 => &sets[0],
        Value::Array(sets) => return Err(format!("has {} entries, wanted is one; put the rows into one file", sets.len())),
        set => set,
    };
    let Value::Object(set) = set else { return Err(unfit(value, "a list with one entry that has a `path`")) };
    let path = set.get("path").filter(|path| !path.is_null()).ok_or("has no `path` in its entry")?;
    // `path: json` names a reader of files.
    let files = set.get("data_files").filter(|_| path == "json");
    for (part, value) in set.iter().filter(|(part, _)| *part != "path" && (*part != "data_files" || files.is_none())) {
        let neutral = parts.iter().find(|(name, _)| name == part).map(|(_, neutral)| *neutral);
        // Maps are compared with their keys in order.
        let sorted: Option<std::collections::BTreeMap<_, _>> = value.as_object().map(|map| map.iter().collect());
        let text = sorted.map_or_else(|| value.to_string(), |map| json!(map).to_string());
        let fits = |neutral: &[&str]| neutral.is_empty() || neutral.iter().any(|one| is_text(value, one) || text == **one);
        if !(is_off(value) || neutral.is_some_and(fits)) {
            return Err(format!("has `{part}` {value}, which has no counterpart; write the rows as they shall be learned"));
        }
    }
    match files {
        Some(Value::Array(files)) if files.len() == 1 => Ok(Reading::As(vec![("data", files[0].clone())])),
        Some(Value::Array(files)) => Err(format!("has {} files, and one is read; put the rows into one file", files.len())),
        files => Ok(Reading::As(vec![("data", files.unwrap_or(path).clone())])),
    }
}

fn strategy(value: &Value, key: &'static str) -> Result<Reading, String> {
    match value.as_str() {
        Some("steps") => Ok(Reading::Ignored(None)),
        Some("no") => Ok(Reading::As(vec![(key, 0.into())])),
        // A bare `no` is false in YAML.
        None if *value == false => Ok(Reading::As(vec![(key, 0.into())])),
        Some("epoch") => Ok(Reading::Ignored(Some(format!("does nothing here: {key} counts optimizer steps")))),
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

const F32_MOMENTS: &str = "its moments are f32 here, which is more exact and takes more memory";

/// Values of the others: our key, their value, ours, and what the difference is.
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("optimizer", "adamw_torch", "adamw", ""),
    ("optimizer", "adamw_torch_fused", "adamw", ""),
    ("optimizer", "adamw_torch_xla", "adamw", ""),
    ("optimizer", "adamw_apex_fused", "adamw", ""),
    ("optimizer", "adamw_hf", "adamw", ""),
    ("optimizer", "paged_adamw", "adamw", ""),
    ("optimizer", "paged_adamw_32bit", "adamw", ""),
    ("optimizer", "adamw_8bit", "adamw", F32_MOMENTS),
    ("optimizer", "adamw_bnb_8bit", "adamw", F32_MOMENTS),
    ("optimizer", "paged_adamw_8bit", "adamw", F32_MOMENTS),
    ("optimizer", "adamw_torch_8bit", "adamw", F32_MOMENTS),
    ("dtype", "float32", "f32", ""),
    ("dtype", "float16", "f16", ""),
    ("dtype", "bfloat16", "bf16", ""),
    ("lr_scheduler", "constant_with_warmup", "constant", ""),
    ("target_modules", "all", "all-linear", ""),
];

/// A value in the form that our key wants, and what is to say about that.
pub(super) fn value_for(key: &Key, value: Value) -> (Value, Option<&'static str>) {
    let text = value.as_str().unwrap_or_default();
    // "No limit" of the others.
    let unlimited = ["iters", "num_layers", "val_batches", "save_total_limit"];
    if unlimited.contains(&key.name) && value.as_i64() == Some(-1) {
        return (0.into(), Some("no limit"));
    }
    if let Some((.., ours, why)) = VALUES.iter().find(|(name, theirs, ..)| *name == key.name && *theirs == text) {
        return ((*ours).into(), Some(*why));
    }
    match key.kind {
        Kind::Texts if text.contains(',') => (text.split(',').map(|part| Value::from(part.trim())).collect(), None),
        // 1.0 is a whole number too; 32 and 32.0 are the same.
        Kind::Integer if value.as_u64().is_none() => {
            let whole = number(&value).filter(|number| *number >= 0.0 && number.fract() == 0.0 && *number < 1e15);
            (whole.map_or(value, |whole| (whole as u64).into()), None)
        }
        Kind::Float => (number(&value).map_or(value, Value::from), None),
        _ => (value, None),
    }
}
