//! mlx-lm: `mlx_lm.lora -c lora.yaml`.

use serde_json::{Map, Value, json};

use super::{NO_EVALUATION, Peer};
use crate::config::entry::Entry;
use crate::config::meaning::Meaning::{self, Harmless, Only, Same, Translated};
use crate::config::value::{number, should_be};

const KEYS: &[(&str, Meaning)] = &[
    ("lora_layers", Same("num_layers")),
    ("adapter_path", Same("output_dir")),
    ("resume_adapter_file", Same("adapter")),
    ("lora_parameters", Translated),
    ("lr_schedule", Translated),
    ("optimizer_config", Translated),
    ("hf_dataset", Translated),
    ("train", Only(&["true"], "`burnish train` trains, `burnish eval` evaluates")),
    ("test", Harmless(NO_EVALUATION)),
    ("test_batches", Harmless(NO_EVALUATION)),
    ("clear_cache_threshold", Harmless("each backend has its own memory pool")),
    ("wandb", Translated),
];

pub(in crate::config) const PEER: Peer = Peer {
    name: "mlx-lm",
    keys: KEYS,
    settings: &[],
    signs: &[
        "lora_layers",
        "adapter_path",
        "resume_adapter_file",
        "lora_parameters",
        "lr_schedule",
        "optimizer_config",
        "hf_dataset",
        "train",
        "test",
        "test_batches",
        "clear_cache_threshold",
    ],
    defaults,
    traps,
};

fn traps(given: &Map<String, Value>) -> Vec<String> {
    let blocks = given.get("num_layers").and_then(Value::as_u64).filter(|blocks| *blocks > 0);
    let blocks = blocks.filter(|_| given.get("fine_tune_type").is_none_or(|kind| kind != "full"));
    let trap =
        |blocks| format!("mlx-lm adapts the last {blocks} blocks only, and so does this run; `num_layers: -1` adapts all");
    blocks.map(trap).into_iter().collect()
}

/// From `CONFIG_DEFAULTS` in `mlx_lm/lora.py`; alpha is scale · rank, and only AdamW has weight decay.
fn defaults(given: &Map<String, Value>) -> Value {
    let mut defaults = json!({
        "iters": 1000, "num_layers": 16, "rank": 8, "alpha": 160.0, "mask_prompt": false, "learning_rate": 1e-5,
        "lr_scheduler": "constant", "warmup": 0.0, "max_grad_norm": 0.0,
    });
    if !given.contains_key("optimizer") {
        defaults["weight_decay"] = json!(0.0);
    }
    defaults
}

/// Keys that count micro-batches in mlx-lm, and optimizer steps here.
const COUNTS: [&str; 4] = ["iters", "save_every", "steps_per_eval", "steps_per_report"];

/// Converts counts of micro-batches into optimizer steps; returns a note for the user if any changed.
pub(in crate::config) fn to_optimizer_steps(values: &mut Map<String, Value>) -> Result<Option<String>, String> {
    let steps = values.get("grad_accumulation_steps").and_then(Value::as_u64).unwrap_or(1);
    if steps < 2 {
        return Ok(None);
    }
    let mut became = Vec::new();
    for key in COUNTS {
        let Some(count) = values.get(key).and_then(Value::as_u64).filter(|count| *count > 0) else { continue };
        if key == "iters" && count < steps {
            return Err(format!(
                "is {count}, but mlx-lm counts micro-batches, and grad_accumulation_steps is {steps}: there would be no step"
            ));
        }
        let count = (count / steps).max(1);
        became.push(format!("`{key} = {count}`"));
        values.insert(key.to_owned(), count.into());
    }
    let said = "burnish counts optimizer steps, mlx-lm counts micro-batches";
    Ok((!became.is_empty()).then(|| format!("{} (÷ grad_accumulation_steps {steps}): {said}", became.join(", "))))
}

/// Why `fine_tune_type: full` is not supported, unless `num_layers` is -1: mlx-lm then trains only the last blocks.
pub(in crate::config) fn part_of_full(values: &Map<String, Value>) -> Option<String> {
    let blocks = values.get("num_layers").map_or(Some(16), Value::as_u64).filter(|blocks| *blocks > 0)?;
    (values.get("fine_tune_type")? == "full").then(|| {
        format!("is \"full\" with `num_layers` {blocks}, which in mlx-lm trains only the last blocks; here full trains every weight: set `num_layers: -1`")
    })
}

/// Reads the keys whose meaning depends on others: `lr_schedule` and `optimizer_config`.
///
/// # Errors
/// The key, and why it is not supported.
pub(in crate::config) fn rewrite(entries: &mut Vec<Entry>, notes: &mut Vec<String>) -> Result<(), (&'static str, String)> {
    let whole = |name: &str, default: u64| {
        let entry = entries.iter().find(|entry| entry.name == name);
        entry.and_then(|entry| number(&entry.value)).map_or(default, |number| number as u64)
    };
    let updates = whole("iters", 1000) / whole("grad_accumulation_steps", 1).max(1);
    let optimizer = entries.iter().find(|entry| entry.name == "optimizer");
    let optimizer = optimizer.and_then(|entry| entry.value.as_str()).unwrap_or("adam").to_lowercase();

    let set = entries.iter().find(|entry| entry.name == "hf_dataset").map(|entry| &entry.value);
    let has_split = |set: &Value| set.as_object().is_none_or(|set| set.contains_key("train_split"));
    let has_splits = set.is_none_or(|set| set.as_array().map_or_else(|| has_split(set), |sets| sets.iter().all(has_split)));
    if !has_splits {
        let said = "`hf_dataset` has no `train_split`, which mlx-lm reads as the first 80 % of the split train; here it is all of train";
        notes.push(said.to_owned());
    }

    let mut take = |name: &str| {
        let place = entries.iter().position(|entry| entry.name == name)?;
        Some(entries.remove(place).value).filter(|value| !value.is_null())
    };
    let schedule = take("lr_schedule");
    let config = take("optimizer_config");
    let mut read = Vec::new();
    if let Some(value) = schedule {
        // mlx-lm uses only the schedule's learning rate.
        take("learning_rate");
        let keys = lr_schedule(&value, updates).map_err(|reason| ("lr_schedule", reason))?;
        read.push(("lr_schedule", keys, "here the rate decays to 0 at the last step"));
    }
    if let Some(value) = config {
        let keys = optimizer_config(&value, &optimizer).map_err(|reason| ("optimizer_config", reason))?;
        read.push(("optimizer_config", keys, "from the settings of the chosen optimizer"));
    }
    for (key, keys, why) in read {
        let became: Vec<String> = keys.iter().map(|(own, value)| format!("`{own} = {value}`")).collect();
        if !became.is_empty() {
            notes.push(format!("`{key}` is read as {} ({why})", became.join(", ")));
        }
        entries.extend(keys.into_iter().map(|(own, value)| Entry::new(own, value)));
    }
    Ok(())
}

const INSTEAD: &str = "use lr_scheduler, learning_rate and warmup instead";

/// `{name, arguments, warmup, warmup_init}`; the functions are those of `mlx.optimizers.schedulers`.
fn lr_schedule(value: &Value, updates: u64) -> Result<Vec<(&'static str, Value)>, String> {
    let Value::Object(parts) = value else { return Err(should_be("a table with name and arguments", value)) };
    let known = ["name", "arguments", "warmup", "warmup_init"];
    if let Some(part) = parts.keys().find(|part| !known.contains(&part.as_str())) {
        return Err(format!("has an unknown key `{part}`; {INSTEAD}"));
    }
    let part = |name: &str| parts.get(name).filter(|value| !value.is_null());
    let arguments = part("arguments").and_then(Value::as_array);
    let arguments: Vec<f64> = arguments.into_iter().flatten().filter_map(number).collect();
    let warmup =
        part("warmup").map_or(Some(0.0), number).ok_or_else(|| format!("has a `warmup` that is not a number; {INSTEAD}"))?;
    let warmup_init = part("warmup_init").map_or(Some(0.0), number).unwrap_or(f64::INFINITY);
    let (scheduler, peak, end, steps) = match (part("name").and_then(Value::as_str), arguments.as_slice()) {
        (Some("cosine_decay"), [peak, steps]) => ("cosine", *peak, 0.0, *steps),
        (Some("cosine_decay"), [peak, steps, end]) => ("cosine", *peak, *end, *steps),
        (Some("linear_schedule"), [peak, end, steps]) => ("linear", *peak, *end, *steps),
        (name, arguments) => {
            let name = name.unwrap_or("nothing");
            return Err(format!("is {name} with {} arguments, which is not supported; {INSTEAD}", arguments.len()));
        }
    };
    let (updates, small) = (updates as f64, peak / 10.0);
    if steps < updates - warmup || steps > updates {
        return Err(format!(
            "decays for {steps} steps, but the run has {updates} with {warmup} of warm-up, and here the decay ends with the run; {INSTEAD}"
        ));
    }
    if end > small || warmup_init > small {
        return Err(format!("starts or ends well above 0, but here warm-up starts at 0 and decay ends at 0; {INSTEAD}"));
    }
    Ok(vec![("lr_scheduler", json!(scheduler)), ("learning_rate", json!(peak)), ("warmup", json!(warmup))])
}

/// Arguments of `mlx.optimizers.Adam` and `AdamW`, by the optimizer's name.
fn optimizer_config(value: &Value, optimizer: &str) -> Result<Vec<(&'static str, Value)>, String> {
    let Value::Object(configs) = value else { return Err(should_be("a table with the optimizer's name as key", value)) };
    let Some(Value::Object(parts)) = configs.get(optimizer) else { return Ok(Vec::new()) };
    let mut keys = Vec::new();
    for (part, value) in parts {
        match (part.as_str(), value.as_array().map(Vec::as_slice)) {
            ("betas", Some([first, second])) => keys.extend([("beta1", first.clone()), ("beta2", second.clone())]),
            ("eps", None) => keys.push(("epsilon", value.clone())),
            ("weight_decay", None) if optimizer == "adamw" => keys.push(("weight_decay", value.clone())),
            // Bias correction is always on here.
            ("bias_correction", None) if *value == true => {}
            _ => {
                return Err(format!(
                    "has `{part} = {value}`, which is not supported; use beta1, beta2, epsilon and weight_decay"
                ));
            }
        }
    }
    Ok(keys)
}
