//! What each key of `adapter_config.json` means here.
//!
//! Source: `LoraConfig` and `PeftConfigMixin` of PEFT 0.21.2.

use serde_json::{Map, Value};

use crate::init::Init;

/// What a key means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is read.
    Read,
    /// It says which layers have an adapter, which the names of the tensors say too.
    InTensors,
    /// It does not change what a trained adapter computes.
    Harmless,
    /// It changes what is computed and is not supported: refused, with this description, unless it is off.
    Refused(&'static str),
}

use Meaning::{Harmless, InTensors, Read, Refused};

/// Every key that PEFT 0.21 writes, and those that older versions wrote.
pub(super) const KEYS: &[(&str, Meaning)] = &[
    ("peft_type", Read),
    ("r", Read),
    ("lora_alpha", Read),
    ("lora_dropout", Read),
    ("use_rslora", Read),
    ("use_dora", Read),
    ("target_modules", Read),
    ("target_parameters", Read),
    ("rank_pattern", Read),
    ("alpha_pattern", Read),
    ("init_lora_weights", Read),
    ("modules_to_save", Read),
    ("bias", Read),
    ("exclude_modules", InTensors),
    ("layers_to_transform", InTensors),
    ("layers_pattern", InTensors),
    ("task_type", Harmless),
    ("auto_mapping", Harmless),
    ("peft_version", Harmless),
    ("base_model_name_or_path", Harmless),
    ("revision", Harmless),
    ("inference_mode", Harmless),
    ("runtime_config", Harmless),
    // PEFT ignores it for linear layers, and there are no others here.
    ("fan_in_fan_out", Harmless),
    // Options of one value of `init_lora_weights` each; that key is checked instead.
    ("loftq_config", Harmless),
    ("eva_config", Harmless),
    ("corda_config", Harmless),
    ("lora_ga_config", Harmless),
    // Options of `use_qalora` and of `megatron_config`, which are refused.
    ("qalora_group_size", Harmless),
    ("megatron_core", Harmless),
    // The tensors say whether the embedding and the head are still one.
    ("ensure_weight_tying", Harmless),
    ("trainable_token_indices", Refused("rows of the embedding trained beside the adapter")),
    ("lora_bias", Refused("a bias in the adapter itself")),
    ("layer_replication", Refused("a model that repeats some of its blocks")),
    ("alora_invocation_tokens", Refused("an adapter that works only after certain tokens")),
    ("use_qalora", Refused("QALoRA, which pools the input")),
    ("use_bdlora", Refused("BD-LoRA, whose factors are block-diagonal")),
    ("arrow_config", Refused("routing between adapters")),
    ("kasa_config", Refused("KaSA, which truncates the base weights")),
    ("monteclora_config", Refused("Monte Carlo sampling of the factors")),
    ("velora_config", Refused("VeLoRA, which compresses activations in training")),
    ("megatron_config", Refused("Megatron's parallel layers")),
    ("enable_lora", Refused("an adapter of some parts of a merged projection (PEFT before 0.3)")),
    ("merge_weights", Harmless),
];

/// Refuses every key that asks for anything but the LoRA that is computed here; returns a note on each unknown key that is
/// ignored.
///
/// An unknown key that is null, false, zero or empty is off. One that is true, a list or an object turns something on and is
/// refused. A number or a string may be an option of something that is off, so it is ignored with a note.
pub(super) fn check(config: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for (key, value) in config {
        let meaning = KEYS.iter().find(|(name, _)| name == key).map(|(_, meaning)| *meaning);
        match meaning {
            Some(Refused(what)) if !is_off(value) => {
                return Err(format!("`{key}` is {}: not supported ({what})", short(value)));
            }
            None if !is_off(value) => match value {
                Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(format!("`{key}` is {}: an unknown key that may change the result", short(value)));
                }
                _ => notes.push(format!("the unknown key `{key}` is ignored; its value is {}", short(value))),
            },
            _ => {}
        }
    }
    match config.get("bias") {
        None | Some(Value::Null) => {}
        Some(bias) if bias == "none" => {}
        Some(bias) => {
            return Err(format!("`bias` is {bias}: not supported (biases trained beside the adapter)"));
        }
    }
    match config.get("init_lora_weights") {
        Some(Value::String(init)) => check_init(init)?,
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(other) => return Err(format!("`init_lora_weights`: expected true, false or a name, got {}", short(other))),
    }
    Ok(notes)
}

/// What the tensors of this file are: those of an adapter on a base that its initial factors were taken out of, or plain ones.
pub(super) fn mutating_init(config: &Map<String, Value>) -> Init {
    let init = config.get("init_lora_weights").and_then(Value::as_str).and_then(|name| name.parse::<Init>().ok());
    init.filter(|init| init.is_exact()).unwrap_or_default()
}

/// Some initialisations subtract the initial factors from the base weights, but the file holds only the trained ones. They are
/// computed again where they follow from the weights, as PEFT does; others are drawn at random, or follow from data.
fn check_init(init: &str) -> Result<(), String> {
    match init.to_lowercase().as_str() {
        "gaussian" | "eva" | "orthogonal" | "mica" | "true" | "false" | "pissa" | "olora" => Ok(()),
        name if name.starts_with("pissa") || name.starts_with("corda") || ["loftq", "lora_ga"].contains(&name) => {
            Err(format!(
                "`init_lora_weights` is \"{init}\", which changes the base weights, and the file has only the adapter; \
                 PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…) converts it to a plain adapter"
            ))
        }
        _ => Err(format!("`init_lora_weights` is \"{init}\": an unknown name that may change the base weights")),
    }
}

/// Whether a value turns its key off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// A value for a message; long ones are cut.
fn short(value: &Value) -> String {
    const MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_json(value: Value) -> Result<Vec<String>, String> {
        check(value.as_object().unwrap())
    }

    /// `LoraConfig(r=8).to_dict()` of PEFT 0.21.2.
    fn defaults() -> Value {
        // Parsed, because `json!` can't take this many keys.
        let text = r#"{
            "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
            "base_model_name_or_path": "m", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
            "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
            "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
            "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.0,
            "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
            "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8,
            "rank_pattern": {}, "revision": null, "runtime_config": {"ephemeral_gpu_offload": false},
            "target_modules": ["q_proj"], "target_parameters": null, "task_type": "CAUSAL_LM",
            "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
            "use_rslora": false, "velora_config": null
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_key_of_peft_is_known() {
        let defaults = defaults();
        for key in defaults.as_object().unwrap().keys() {
            assert!(KEYS.iter().any(|(name, _)| name == key), "{key}");
        }
        assert_eq!(check_json(defaults), Ok(Vec::new()));
    }

    #[test]
    fn keys_that_change_the_result_are_refused_by_name() {
        for (key, value) in [
            ("trainable_token_indices", json!([1, 2])),
            ("trainable_token_indices", json!({ "embed_tokens": [1] })),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("bias", json!("lora_only")),
            ("layer_replication", json!([[0, 3], [2, 4]])),
            ("alora_invocation_tokens", json!([5])),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({ "nblocks": 2 })),
            ("arrow_config", json!({ "top_k": 3 })),
            ("kasa_config", json!({ "beta": 0.1 })),
            ("monteclora_config", json!({ "num_samples": 2 })),
            ("velora_config", json!({ "scale": 1.0 })),
            ("megatron_config", json!({ "a": 1 })),
            ("use_something_new", json!(true)),
            ("something_config", json!({ "a": 1 })),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("init_lora_weights", json!("something")),
        ] {
            let mut config = defaults();
            config[key] = value.clone();
            let error = check_json(config).unwrap_err();
            assert!(error.contains(&format!("`{key}`")), "{key} {value}: {error}");
        }
    }

    #[test]
    fn harmless_keys_are_accepted() {
        for (key, value) in [
            ("modules_to_save", json!([])),
            ("modules_to_save", json!(["lm_head"])),
            ("ensure_weight_tying", json!(true)),
            ("use_dora", json!(true)),
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("OLoRA")),
            ("init_lora_weights", json!("gaussian")),
            ("init_lora_weights", json!("eva")),
            ("init_lora_weights", json!("orthogonal")),
            ("init_lora_weights", json!("mica")),
            ("init_lora_weights", json!(false)),
            ("loftq_config", json!({ "loftq_bits": 4 })),
            ("eva_config", json!({ "rho": 2.0 })),
            ("layers_to_transform", json!([0, 1])),
            ("fan_in_fan_out", json!(true)),
            ("something_config", json!(null)),
            ("use_something_new", json!(false)),
        ] {
            let mut config = defaults();
            config[key] = value;
            assert_eq!(check_json(config), Ok(Vec::new()), "{key}");
        }
        let mut config = defaults();
        config["something_group_size"] = json!(16);
        let notes = check_json(config).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("`something_group_size`"), "{notes:?}");
    }
}
