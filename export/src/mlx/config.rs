//! `config.json` as mlx-lm reads it.
//!
//! Source: `mlx_lm/models` of mlx-lm 0.32.2.

use burnish_models::config::insert_absent;
use burnish_models::{ModelConfig, RopeScaling};
use serde_json::{Map, Value, json};

/// Adds what mlx-lm reads under other names than transformers 5 writes, and returns what it computes differently: most of its models
/// know only the keys of transformers 4, and would take their defaults. The keys that are there already stay.
pub(super) fn adapt(json: &mut Value, config: &ModelConfig) -> std::result::Result<Vec<String>, String> {
    let Value::Object(map) = json else { return Ok(Vec::new()) };
    let mut notes = (config.family.mlx.adapt)(config, map)?;
    let parameters = map.get("rope_parameters").and_then(Value::as_object).cloned().unwrap_or_default();
    // One for each kind of layer, or one for all.
    let full = parameters.get("full_attention").and_then(Value::as_object).unwrap_or(&parameters);
    for key in ["rope_theta", "partial_rotary_factor"] {
        insert_absent(map, key, full.get(key).cloned());
    }
    insert_absent(map, "rope_scaling", scaling(full));
    insert_absent(map, "num_experts", config.experts.as_ref().map(|experts| json!(experts.count)));
    let is_long_only = |scaling: &RopeScaling| matches!(scaling, RopeScaling::LongRope { short, long, .. } if short != long);
    if config.rotary.iter().filter_map(|rotary| rotary.scaling.as_ref()).any(is_long_only) {
        notes.push(
            "mlx-lm takes LongRoPE's divisors for long texts for short ones too, so the results differ on short texts"
                .to_owned(),
        );
    }
    Ok(notes)
}

/// `rope_scaling` of transformers 4; `None` if frequencies are not scaled.
fn scaling(parameters: &Map<String, Value>) -> Option<Value> {
    let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).filter(|kind| *kind != "default")?;
    let mut scaling: Map<String, Value> = parameters.clone();
    for key in ["rope_theta", "partial_rotary_factor"] {
        scaling.remove(key);
    }
    scaling.insert("rope_type".to_owned(), kind.clone());
    scaling.insert("type".to_owned(), kind.clone());
    Some(Value::Object(scaling))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(mut json: Value) -> Value {
        let base = json!({ "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6 });
        for (key, value) in base.as_object().unwrap() {
            json[key] = value.clone();
        }
        let config = ModelConfig::from_json(&json).unwrap();
        assert_eq!(adapt(&mut json, &config), Ok(Vec::new()));
        json
    }

    #[test]
    fn rotary_parameters_have_the_keys_of_transformers_4() {
        let llama3 = json!({ "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16 });
        let json = adapted(json!({ "model_type": "llama", "rope_parameters": llama3 }));
        assert_eq!((&json["rope_theta"], &json["rope_scaling"]["type"]), (&json!(5e5), &json!("llama3")));
        assert!(json["rope_scaling"].get("rope_theta").is_none());
        let plain =
            adapted(json!({ "model_type": "llama", "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } }));
        assert_eq!((plain["rope_theta"].as_f64(), plain.get("rope_scaling")), (Some(1e6), None));
        let own = adapted(json!({ "model_type": "llama", "rope_theta": 7.0 }));
        assert_eq!((own["rope_theta"].as_f64(), own.get("rope_scaling")), (Some(7.0), None));
    }

    #[test]
    fn windows_have_the_keys_that_mlx_reads() {
        let (sliding, full) = ("sliding_attention", "full_attention");
        let gemma = adapted(json!({ "model_type": "gemma3_text", "sliding_window": 4, "query_pre_attn_scalar": 8,
            "layer_types": [sliding, full, sliding, full], "rope_parameters": {
                full: { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
                sliding: { "rope_type": "default", "rope_theta": 1e4 } } }));
        assert_eq!((&gemma["sliding_window_pattern"], &gemma["rope_local_base_freq"]), (&json!(2), &json!(1e4)));
        assert_eq!((&gemma["rope_theta"], &gemma["rope_scaling"]["factor"]), (&json!(1e6), &json!(8.0)));
        let mistral = adapted(json!({ "model_type": "mistral", "sliding_window": 4 }));
        assert_eq!(mistral["layer_types"], json!([sliding, sliding, sliding, sliding]));
    }

    #[test]
    fn experts_and_layers_have_the_keys_that_mlx_reads() {
        let experts = json!({ "model_type": "qwen3_moe", "num_local_experts": 4, "num_experts_per_tok": 2 });
        assert_eq!(adapted(experts)["num_experts"], json!(4));
        let granite =
            adapted(json!({ "model_type": "granitemoehybrid", "num_local_experts": 0, "position_embedding_type": "rope",
            "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"] }));
        assert_eq!(granite["layer_types"], json!(["attention", "attention", "attention", "attention"]));
    }
}
