use serde_json::{Value, json};

use super::*;

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100,
    })
}

fn read(key: &str, value: Value) -> Result<ModelConfig> {
    let mut config = llama();
    config[key] = value;
    ModelConfig::from_json(&config)
}

/// The keys of `more` laid over the Llama.
fn with(more: &Value) -> Result<ModelConfig> {
    let mut config = llama();
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_json(&config)
}

#[test]
fn ids_that_name_no_token_are_left_out() {
    assert!(read("eos_token_id", json!(-1)).unwrap().eos_token_id.is_empty());
    assert_eq!(read("eos_token_id", json!([2, -1])).unwrap().eos_token_id, [2]);
    assert_eq!(read("pad_token_id", json!(99)).unwrap().pad_token_id, Some(99));
    assert_eq!(read("pad_token_id", json!(100)).unwrap().pad_token_id, None);
    assert!(read("eos_token_id", json!("</s>")).unwrap_err().to_string().contains("eos_token_id"));
}

#[test]
fn what_is_not_computed_or_beyond_reason_is_refused_by_name() {
    let longrope = |count: usize| {
        let factors = vec![1.5; count];
        json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0})
    };
    assert!(read("rope_scaling", longrope(8)).is_ok() && read("hidden_act", json!("silu")).is_ok());
    for (key, value, word) in [
        ("hidden_act", json!("gelu"), "gelu"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("vocab_size", json!(u64::MAX), "vocab_size"),
        ("rope_scaling", longrope(7), "7 factors"),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn"),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 4.0}), "dynamic"),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 5.0}}), "full_attention"),
        ("rope_parameters", json!({"rope_theta": 5.0, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("attn_logit_softcapping", json!(50.0), "attn_logit_softcapping"),
        ("final_logit_softcapping", json!(30.0), "final_logit_softcapping"),
        ("use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
    ] {
        let error = read(key, value).unwrap_err().to_string();
        assert!(error.contains(word), "{key}: {error}");
    }
    assert!(read("final_logit_softcapping", Value::Null).is_ok() && read("partial_rotary_factor", json!(1.0)).is_ok());
}

#[test]
fn an_unknown_model_type_lists_the_known_ones() {
    let error = read("model_type", json!("mamba")).unwrap_err();
    assert!(matches!(&error, ModelError::UnknownModelType { known, .. } if known.contains("gemma3_text")), "{error}");
}

// Losses of transformers with these files: 1.3754 with the inner theta, 2.3347 with the scaling of Llama 3.
#[test]
fn rotary_parameters_come_from_where_transformers_takes_them() {
    let inner = json!({"rope_theta": 10_000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}});
    assert_eq!(with(&inner).unwrap().rotary, [RotaryConfig { theta: 500_000.0, scaling: None }]);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let both = json!({"rope_theta": 20_000.0, "rope_scaling": llama3, "rope_parameters": {"rope_theta": 5.0},
        "max_position_embeddings": 64});
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    assert_eq!(with(&both).unwrap().rotary, [RotaryConfig { theta: 20_000.0, scaling: Some(scaling) }]);
    // An empty or null `rope_scaling` is none.
    for nothing in [json!({}), Value::Null] {
        let config = with(&json!({"rope_scaling": nothing, "rope_parameters": {"rope_theta": 7.0}})).unwrap();
        assert_eq!(config.rotary, [RotaryConfig { theta: 7.0, scaling: None }]);
    }
}

#[test]
fn what_is_absent_has_the_default_of_its_class() {
    let windows = |more: &Value| with(more).map(|config| (config.window(0), config.num_key_value_heads)).unwrap();
    assert_eq!(windows(&json!({"sliding_window": 8})), (None, 4));
    let mistral = |more: Value| {
        let mut all = json!({"model_type": "mistral", "num_attention_heads": 8});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        windows(&all)
    };
    assert_eq!(mistral(json!({})), (Some(4096), 8));
    assert_eq!(mistral(json!({"sliding_window": null, "num_key_value_heads": 2})), (None, 2));
    assert_eq!(mistral(json!({"sliding_window": 16, "num_key_value_heads": null})), (Some(16), 8));
}

#[test]
fn qwen_slides_from_max_window_layers_on_where_it_is_told_to() {
    let qwen = |more: Value| {
        let mut all = json!({"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 16, "max_window_layers": 3});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(&all).map(|config| (0..4).map(|layer| config.window(layer)).collect::<Vec<_>>())
    };
    assert_eq!(qwen(json!({})).unwrap(), [None; 4]);
    assert_eq!(qwen(json!({"use_sliding_window": true})).unwrap(), [None, None, None, Some(16)]);
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    assert_eq!(qwen(json!({"use_sliding_window": true, "layer_types": types})).unwrap(), [Some(16), None, None, None]);
    for (wrong, word) in [(json!(["full_attention"]), "1 entries"), (json!(vec!["linear_attention"; 4]), "linear_attention")]
    {
        assert!(qwen(json!({"layer_types": wrong})).unwrap_err().to_string().contains(word));
    }
}

/// The smallest of the published Gemma 3 files with a text and a vision part, as far as the text goes.
fn gemma() -> Value {
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    })
}

#[test]
fn the_text_part_of_gemma_3_is_read_with_its_defaults() {
    let config = ModelConfig::from_json(&gemma()).unwrap();
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab_size, config.tie_word_embeddings), (262_208, true));
    assert_eq!(
        (config.bos_token_id, config.eos_token_id.as_slice(), config.pad_token_id),
        (Some(2), &[1, 106][..], Some(0))
    );
    let full: Vec<usize> = (0..34).filter(|layer| config.window(*layer).is_none()).collect();
    assert_eq!(full, [5, 11, 17, 23, 29]);
    assert_eq!((config.layer(5).rotary, config.layer(6).rotary), (Some(0), Some(1)));
    let linear = Some(RopeScaling::Linear { factor: 8.0 });
    assert_eq!(config.rotary, [RotaryConfig { theta: 1e6, scaling: linear }, RotaryConfig { theta: 1e4, scaling: None }]);
    // 3.88 billion: google/gemma-3-4b without its vision part.
    assert_eq!(config.parameter_count(), 3_880_263_168);
    assert_eq!((config.attention_scale, config.embedding_scale), (1.0 / 16.0, Some(2560f64.sqrt())));
    let mut other = gemma();
    other["text_config"]["query_pre_attn_scalar"] = json!(144);
    let other = ModelConfig::from_json(&other).unwrap();
    assert_eq!((other.attention_scale, other.embedding_scale), (1.0 / 12.0, config.embedding_scale));
    assert_eq!(text_part(&gemma())["architectures"], json!(["Gemma3ForCausalLM"]));
}

#[test]
fn a_part_of_rope_parameters_comes_before_older_keys() {
    let mut json = gemma()["text_config"].clone();
    json["rope_theta"] = json!(5.0);
    json["rope_local_base_freq"] = json!(6.0);
    json["rope_parameters"] = json!({"sliding_attention": {"rope_theta": 7.0, "rope_type": "default"}});
    let config = ModelConfig::from_json(&json).unwrap();
    assert_eq!(config.rotary.iter().map(|rotary| rotary.theta).collect::<Vec<_>>(), [5.0, 7.0]);
}
