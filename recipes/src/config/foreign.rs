//! Translates keys and values of other programs into ours.

use serde_json::{Value, json};

use super::alias::meaning;
use super::key::{Key, Kind};
use super::meaning::Meaning;
use super::report_to;
use super::value::{number, should_be};

/// How a key of another program is read.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// Not another program's key.
    Own,
    /// These keys of ours.
    As(Vec<(&'static str, Value)>),
    /// This key of ours, unless something else sets it.
    Yields(&'static str),
    /// It changes nothing; a note that follows its name, if it asked for something.
    Ignored(Option<String>),
}

/// Reads a key that may be another program's.
///
/// # Errors
/// When it asks for something that is not supported; the message says why.
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
        Meaning::Harmless(why) => Ok(Reading::Ignored(Some(format!("has no effect: {why}")))),
        Meaning::Only(neutral, _) if neutral.iter().any(|text| is_text(value, text)) => Ok(Reading::Ignored(None)),
        Meaning::Only(_, why) => Err(format!("= {value} is not supported: {why}")),
        Meaning::Refused(_) if is_off(value) => Ok(Reading::Ignored(None)),
        Meaning::Refused(why) => Err(format!("is not supported: {why}")),
        Meaning::Translated => translated(name, value),
    }
}

/// Whether a value turns its key off.
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

fn translated(name: &str, value: &Value) -> Result<Reading, String> {
    let one = |key, value: Value| Ok(Reading::As(vec![(key, value)]));
    let nothing = Ok(Reading::Ignored(None));
    match name {
        "lora_parameters" => lora_parameters(value),
        "dataset" | "local_dataset" => dataset(value),
        "datasets" => datasets(value, DATASETS, &[]),
        "hf_dataset" => datasets(value, HF_DATASET, &FEATURES),
        "warmup_steps" => match number(value).filter(|steps| *steps >= 0.0 && steps.fract() == 0.0) {
            Some(steps) => one("warmup", steps.into()),
            None => Err(should_be("a whole number, 0 or more", value)),
        },
        "warmup_ratio" => match number(value) {
            Some(share) if (0.0..1.0).contains(&share) => one("warmup", share.into()),
            _ => Err(should_be("a share of all steps, at least 0 and below 1", value)),
        },
        "resume_from_checkpoint" => match value {
            Value::Bool(true) => one("resume", "auto".into()),
            Value::Bool(false) => one("resume", "none".into()),
            _ => one("resume", value.clone()),
        },
        "auto_resume_from_checkpoints" if boolean(value)? => one("resume", "auto".into()),
        "lora_target_linear" if boolean(value)? => one("target_modules", "all-linear".into()),
        "load_in_4bit" if boolean(value)? => one("quantization", "nf4".into()),
        "load_in_8bit" if boolean(value)? => one("quantization", "int8".into()),
        "quantization_bit" => match value.as_u64() {
            Some(4) => one("quantization", "nf4".into()),
            Some(8) => one("quantization", "int8".into()),
            _ => Err(should_be("4 or 8", value)),
        },
        "quantization_config" | "bnb_config_kwargs" | "bnb_config" => bitsandbytes(value),
        "full_finetuning" if boolean(value)? => one("fine_tune_type", "full".into()),
        // They turn W&B on by naming its project.
        "wandb" | "wandb_project" => match value.as_str() {
            Some(_) if is_off(value) => nothing,
            Some(_) => Ok(Reading::As(vec![("report_to", "wandb".into()), ("project_name", value.clone())])),
            None => Err(should_be("the name of a project", value)),
        },
        "use_wandb" | "enable_wandb" if boolean(value)? => one("report_to", "wandb".into()),
        "use_trackio" if boolean(value)? => one("report_to", "trackio".into()),
        "use_tensorboard" | "enable_tensorboard" if boolean(value)? => one("report_to", "tensorboard".into()),
        "disable_shuffling" if boolean(value)? => one("shuffle", false.into()),
        "gradient_checkpointing" | "activation_checkpointing" | "use_gradient_checkpointing" => {
            one("grad_checkpoint", checkpointing(value)?.into())
        }
        "disable_gradient_checkpointing" => one("grad_checkpoint", (!boolean(value)?).into()),
        "use_unsloth_gc" if boolean(value)? => one("grad_checkpoint", true.into()),
        "train_on_inputs" | "train_on_prompt" => one("mask_prompt", (!boolean(value)?).into()),
        "bf16" | "fp16" if value == "auto" => one("dtype", "auto".into()),
        "bf16" | "pure_bf16" | "bfloat16" if boolean(value)? => one("dtype", "bf16".into()),
        "fp16" | "float16" if boolean(value)? => one("dtype", "f16".into()),
        "float32" if boolean(value)? => one("dtype", "f32".into()),
        // Without it TRL trains every weight.
        "use_peft" => one("fine_tune_type", if boolean(value)? { "lora" } else { "full" }.into()),
        "train_sampling_strategy" => match value.as_str() {
            Some("random") => nothing,
            Some("sequential") => one("shuffle", false.into()),
            Some("group_by_length") => {
                Ok(Reading::Ignored(Some("has no effect: the order of rows depends only on shuffle and seed".to_owned())))
            }
            _ => Err(should_be("random, sequential or group_by_length", value)),
        },
        "excess_length_strategy" => match value.as_str() {
            Some("drop" | "truncate") => one("length_policy", value.clone()),
            Some("raise") => Err(NO_LENGTH_ERROR.to_owned()),
            _ => Err(should_be("drop or truncate", value)),
        },
        "dpo_loss_type" => match value.as_array().map(Vec::as_slice) {
            Some([one_loss]) => one("loss_type", one_loss.clone()),
            Some(_) => Err(SEVERAL_LOSSES.to_owned()),
            None => one("loss_type", value.clone()),
        },
        "auto_resume_from_checkpoints"
        | "lora_target_linear"
        | "full_finetuning"
        | "load_in_4bit"
        | "load_in_8bit"
        | "disable_shuffling"
        | "use_unsloth_gc"
        | "use_wandb"
        | "enable_wandb"
        | "use_tensorboard"
        | "enable_tensorboard"
        | "use_trackio"
        | "bf16"
        | "pure_bf16"
        | "bfloat16"
        | "fp16"
        | "float16"
        | "float32" => nothing,
        "stage" => match value.as_str() {
            Some("sft") => nothing,
            Some(recipe @ ("dpo" | "kto")) => one("recipe", recipe.into()),
            _ => Err(should_be("sft, dpo or kto", value)),
        },
        "pref_loss" => match value.as_str() {
            Some(recipe @ ("orpo" | "simpo")) => one("recipe", recipe.into()),
            Some(loss @ ("sigmoid" | "hinge" | "ipo")) => one("loss_type", loss.into()),
            _ => Err(should_be("sigmoid, hinge, ipo, orpo or simpo", value)),
        },
        "rl" => preference(value),
        "eval_strategy" | "evaluation_strategy" => strategy(value, "steps_per_eval"),
        "save_strategy" => strategy(value, "save_every"),
        _ => Ok(Reading::Own),
    }
}

/// axolotl's recipes of preferences.
fn preference(value: &Value) -> Result<Reading, String> {
    match value.as_str() {
        Some(recipe @ ("dpo" | "orpo" | "kto")) => Ok(Reading::As(vec![("recipe", recipe.into())])),
        Some("ipo") => Ok(Reading::As(vec![("recipe", "dpo".into()), ("loss_type", "ipo".into())])),
        // axolotl gives TRL's CPO the loss of SimPO; it keeps the part that `cpo_alpha` weighs.
        Some("simpo") => Ok(Reading::As(vec![("recipe", "cpo".into()), ("loss_type", "simpo".into())])),
        _ if is_off(value) => Ok(Reading::Ignored(None)),
        _ => Err(should_be("dpo, ipo, orpo, kto or simpo", value)),
    }
}

/// Keys of ours that mean something else in another program.
fn own_word(name: &str, value: &Value) -> Result<Option<Reading>, String> {
    match (name, value.as_str()) {
        // axolotl's `adapter` names the kind of fine-tuning; ours is a folder.
        ("adapter", Some(kind @ ("lora" | "qlora"))) if !std::path::Path::new(kind).exists() => match kind {
            "lora" => Ok(Some(Reading::As(vec![("fine_tune_type", "lora".into())]))),
            _ => Ok(Some(Reading::As(vec![("fine_tune_type", "lora".into()), ("quantization", "nf4".into())]))),
        },
        // Unsloth's "unsloth" also moves what it keeps to the host.
        ("grad_checkpoint", Some(_)) => Ok(Some(Reading::As(vec![("grad_checkpoint", checkpointing(value)?.into())]))),
        ("report_to", _) if !value.is_null() => Ok(match report_to::read(value)? {
            report_to::Read::Own => None,
            report_to::Read::As(value) => Some(Reading::As(vec![("report_to", value)])),
            report_to::Read::Nothing(why) => Some(Reading::Ignored(Some(why))),
        }),
        // mlx-lm's third kind of fine-tuning.
        ("fine_tune_type", Some("dora")) => {
            Ok(Some(Reading::As(vec![("fine_tune_type", "lora".into()), ("dora", true.into())])))
        }
        // Unsloth's names the kind of the GGUF file that is written at the end.
        ("quantization", Some(kind))
            if kind.starts_with('q') || matches!(kind, "f16" | "f32" | "bf16" | "not_quantized") =>
        {
            Err("concerns the storage of the model in training here; `burnish export --quant` writes a GGUF file".into())
        }
        // TRL's losses for dpo are a list.
        ("loss_type", None) => match value.as_array().map(Vec::as_slice) {
            Some([one]) => Ok(Some(Reading::As(vec![("loss_type", one.clone())]))),
            Some(_) => Err(SEVERAL_LOSSES.to_owned()),
            None => Ok(None),
        },
        // axolotl's changes the model's own configuration; ours is a folder.
        ("model_config", None) if value.is_object() && is_off(value) => Ok(Some(Reading::Ignored(None))),
        ("model_config", None) if value.is_object() => {
            Err("has settings of axolotl; change them in the checkpoint's config.json, and remove it".to_owned())
        }
        // mlx-lm's Adam is AdamW without weight decay.
        ("optimizer", Some("adam")) => {
            Ok(Some(Reading::As(vec![("optimizer", "adamw".into()), ("weight_decay", 0.0.into())])))
        }
        _ => Ok(None),
    }
}

const NO_LENGTH_ERROR: &str =
    "= \"raise\" is not supported: set drop or truncate; the number of longer rows is printed before the first step";
const SEVERAL_LOSSES: &str = "names several losses; the loss of chosen answers may be added with rpo_alpha";

/// The keys of a `BitsAndBytesConfig` of transformers.
fn bitsandbytes(value: &Value) -> Result<Reading, String> {
    let Value::Object(settings) = value else { return Err(should_be("a table such as `load_in_4bit = true`", value)) };
    let mut keys = Vec::new();
    for (name, value) in settings {
        match name.as_str() {
            "load_in_4bit" if boolean(value)? => keys.push(("quantization", "nf4".into())),
            "load_in_8bit" if boolean(value)? => keys.push(("quantization", "int8".into())),
            "bnb_4bit_use_double_quant" => keys.push(("double_quant", boolean(value)?.into())),
            "bnb_4bit_quant_type" if value != "nf4" => return Err(format!("has `{name} = {value}`, expected \"nf4\"")),
            "quant_method" if value != "bitsandbytes" => {
                return Err(format!("has `{name} = {value}`, expected \"bitsandbytes\""));
            }
            _ => {}
        }
    }
    Ok(Reading::As(keys))
}

/// mlx-lm's `scale` is the scaling factor itself, so alpha = scale · rank.
fn lora_parameters(value: &Value) -> Result<Reading, String> {
    let Value::Object(parameters) = value else {
        return Err(should_be("a table with rank, scale and dropout", value));
    };
    let mut keys = Vec::new();
    let part = |name: &str, default: f64| match parameters.get(name) {
        None => Ok(default),
        Some(value) => number(value).ok_or_else(|| format!("has `{name} = {value}`, expected a number")),
    };
    // mlx-lm's defaults.
    let (rank, scale, dropout) = (part("rank", 8.0)?, part("scale", 20.0)?, part("dropout", 0.0)?);
    if rank.fract() != 0.0 || rank < 1.0 {
        return Err(format!("has `rank = {rank}`, expected a whole number, 1 or more"));
    }
    keys.push(("rank", json!(rank as u64)));
    keys.push(("alpha", json!(scale * rank)));
    keys.push(("dropout", json!(dropout)));
    if let Some(names) = parameters.get("keys").filter(|names| !names.is_null()) {
        keys.push(("target_modules", names.clone()));
    }
    // Files of earlier versions of mlx-lm have `alpha` too, but only `scale` counts.
    let known = |part: &str| ["rank", "scale", "dropout", "keys"].contains(&part);
    let known = |part: &str| known(part) || part == "alpha" && parameters.contains_key("scale");
    match parameters.keys().find(|part| !known(part)) {
        Some(part) => {
            Err(format!("has an unknown key `{part}`; `rank`, `alpha` and `dropout` may also be set at the top level"))
        }
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
        [] => Err(should_be("a file, a folder or a hub id", value)),
        sets => Err(format!("names {} data sets, but only one is supported; put the rows into one file", sets.len())),
    }
}

/// Keys of a data set's entry, and the values that have no effect; an empty list means any value.
type Parts = &'static [(&'static str, &'static [&'static str])];

/// axolotl's entries. Here the kind of a row follows from its keys.
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
const HF_DATASET: Parts =
    &[("train_split", &["train"]), ("valid_split", &["valid", "validation"]), ("test_split", &["test"])];

/// Keys of an entry of mlx-lm that are keys of ours.
const FEATURES: [&str; 4] = ["prompt_feature", "completion_feature", "text_feature", "chat_feature"];

/// An entry that names a data set, or a list with one entry.
fn datasets(value: &Value, parts: Parts, features: &[&'static str]) -> Result<Reading, String> {
    let set = match value {
        Value::Array(sets) if sets.len() == 1 => &sets[0],
        Value::Array(sets) => return Err(format!("has {} entries, expected one; put the rows into one file", sets.len())),
        set => set,
    };
    let Value::Object(set) = set else { return Err(should_be("a list with one entry that has a `path`", value)) };
    let path = set.get("path").filter(|path| !path.is_null()).ok_or("has no `path` in its entry")?;
    // `path: json` means: read `data_files` as JSON.
    let files = set.get("data_files").filter(|_| path == "json");
    let features =
        features.iter().filter_map(|key| Some((*key, set.get(*key).filter(|column| column.is_string())?.clone())));
    let features: Vec<(&'static str, Value)> = features.collect();
    let is_read = |part: &str| {
        part == "path" || (part == "data_files" && files.is_some()) || features.iter().any(|(key, _)| *key == part)
    };
    for (part, value) in set.iter().filter(|(part, _)| !is_read(part)) {
        let neutral = parts.iter().find(|(name, _)| name == part).map(|(_, neutral)| *neutral);
        // Maps are compared with sorted keys.
        let sorted: Option<std::collections::BTreeMap<_, _>> = value.as_object().map(|map| map.iter().collect());
        let text = sorted.map_or_else(|| value.to_string(), |map| json!(map).to_string());
        let fits = |neutral: &[&str]| neutral.is_empty() || neutral.iter().any(|one| is_text(value, one) || text == **one);
        if !(is_off(value) || neutral.is_some_and(fits)) {
            return Err(format!("has `{part} = {value}`, which is not supported; change the rows themselves instead"));
        }
    }
    match files {
        Some(Value::Array(files)) if files.len() == 1 => Ok(Reading::As(vec![("data", files[0].clone())])),
        Some(Value::Array(files)) => {
            Err(format!("has {} files, but only one is supported; put the rows into one file", files.len()))
        }
        files => Ok(Reading::As([vec![("data", files.unwrap_or(path).clone())], features].concat())),
    }
}

fn strategy(value: &Value, key: &'static str) -> Result<Reading, String> {
    match value.as_str() {
        Some("steps") => Ok(Reading::Ignored(None)),
        Some("no") => Ok(Reading::As(vec![(key, 0.into())])),
        // In YAML, `no` without quotes is false.
        None if *value == false => Ok(Reading::As(vec![(key, 0.into())])),
        Some("epoch") => Ok(Reading::Ignored(Some(format!("has no effect: {key} counts optimizer steps")))),
        _ => Err(should_be("\"steps\" or \"no\"", value)),
    }
}

const CHECKPOINTING: [&str; 5] = ["true", "unsloth", "offload", "yes", "1"];

/// Whether a kind of checkpointing is on, or `true` or `false` as text.
fn checkpointing(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(on) => Ok(*on),
        Value::String(kind) if CHECKPOINTING.contains(&kind.to_lowercase().as_str()) => Ok(true),
        // axolotl's table of options.
        Value::Object(options) => Ok(options.get("enabled").is_none_or(|on| *on != false)),
        Value::String(_) if is_off(value) => Ok(false),
        _ => Err(should_be("true, false or \"unsloth\"", value)),
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| should_be("true or false", value))
}

const UNPAGED: &str = "its moments stay on the device";

/// Values of other programs: our key, their value, ours, and how they differ.
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("optimizer", "adamw_torch", "adamw", ""),
    ("optimizer", "adamw_torch_fused", "adamw", ""),
    ("optimizer", "adamw_torch_xla", "adamw", ""),
    ("optimizer", "adamw_apex_fused", "adamw", ""),
    ("optimizer", "adamw_hf", "adamw", ""),
    ("optimizer", "paged_adamw", "adamw", UNPAGED),
    ("optimizer", "paged_adamw_32bit", "adamw", UNPAGED),
    ("optimizer", "adamw_8bit", "adamw8bit", ""),
    ("optimizer", "adamw_bnb_8bit", "adamw8bit", ""),
    ("optimizer", "paged_adamw_8bit", "adamw8bit", UNPAGED),
    ("optimizer", "adamw_torch_8bit", "adamw8bit", ""),
    ("optimizer", "ao_adamw_8bit", "adamw8bit", ""),
    ("dtype", "float32", "f32", ""),
    ("dtype", "float16", "f16", ""),
    ("dtype", "bfloat16", "bf16", ""),
    ("quantization", "4bit", "nf4", ""),
    ("quantization", "8bit", "int8", ""),
    ("lr_scheduler", "constant_with_warmup", "constant", ""),
    ("loss_type", "nll", "auto", ""),
    ("loss_type", "chunked_nll", "auto", ""),
    ("target_modules", "all", "all-linear", ""),
];

/// A value in the form of our key, and a remark for the user if it was translated.
pub(super) fn value_for(key: &Key, value: Value) -> (Value, Option<&'static str>) {
    let text = value.as_str().unwrap_or_default();
    // Other programs write "no limit" as -1.
    let unlimited = ["iters", "num_layers", "val_batches", "save_total_limit"];
    if unlimited.contains(&key.name) && value.as_i64() == Some(-1) {
        return (0.into(), Some("no limit"));
    }
    if key.name == "init" && value == true {
        return ("default".into(), None);
    }
    if let Some((.., ours, why)) = VALUES.iter().find(|(name, theirs, ..)| *name == key.name && *theirs == text) {
        return ((*ours).into(), Some(*why));
    }
    match key.kind {
        Kind::Texts if text.contains(',') => (text.split(',').map(|part| Value::from(part.trim())).collect(), None),
        // 32.0 is accepted as 32.
        Kind::Integer if value.as_u64().is_none() => {
            let whole = number(&value).filter(|number| *number >= 0.0 && number.fract() == 0.0 && *number < 1e15);
            (whole.map_or(value, |whole| (whole as u64).into()), None)
        }
        Kind::Float => (number(&value).map_or(value, Value::from), None),
        _ => (value, None),
    }
}
