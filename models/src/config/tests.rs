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

/// The Llama with the keys of `more` set.
fn with(more: &Value) -> Result<ModelConfig> {
    let mut config = llama();
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_json(&config)
}

#[test]
fn token_ids_that_are_negative_or_without_a_row_are_ignored() {
    assert!(read("eos_token_id", json!(-1)).unwrap().eos_token_id.is_empty());
    assert_eq!(read("eos_token_id", json!([2, -1])).unwrap().eos_token_id, [2]);
    assert_eq!(read("pad_token_id", json!(99)).unwrap().pad_token_id, Some(99));
    assert_eq!(read("pad_token_id", json!(100)).unwrap().pad_token_id, None);
    assert!(read("eos_token_id", json!("</s>")).unwrap_err().to_string().contains("eos_token_id"));
}

#[test]
fn unsupported_keys_and_unreasonable_sizes_are_refused_by_name() {
    let longrope = |count: usize| {
        let factors = vec![1.5; count];
        json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0})
    };
    let llama3 = |low: f64, high: f64| json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high});
    assert!(read("rope_scaling", llama3(1.0, 4.0)).is_ok() && read("rope_theta", Value::Null).is_ok());
    assert!(read("rope_scaling", longrope(8)).is_ok() && read("hidden_act", json!("silu")).is_ok());
    for (key, value, word) in [
        ("hidden_act", json!("gelu"), "gelu"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("vocab_size", json!(u64::MAX), "vocab_size"),
        ("max_position_embeddings", json!(0), "max_position_embeddings"),
        ("rope_scaling", longrope(7), "8 factors"),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0, "truncate": 1}), "truncate"),
        ("rope_scaling", json!({"type": "yarn", "factor": "4"}), "rope_scaling.factor"),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 4.0}), "dynamic"),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 5.0}}), "full_attention"),
        ("rope_theta", json!("10000"), "rope_theta"),
        ("rope_parameters", json!({"rope_theta": "10000"}), "rope_theta"),
        ("rope_scaling", json!({"rope_type": 3}), "rope_type"),
        // Equal factors leave nothing to interpolate between: the frequencies would be NaN.
        ("rope_scaling", llama3(4.0, 4.0), "high_freq_factor"),
        ("rope_scaling", llama3(4.0, 1.0), "high_freq_factor"),
        ("rope_parameters", json!({"rope_theta": 5.0, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("attn_logit_softcapping", json!(50.0), "attn_logit_softcapping"),
        ("final_logit_softcapping", json!(30.0), "final_logit_softcapping"),
        ("use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        // Only Granite reads it.
        ("logits_scaling", json!(8.0), "logits_scaling"),
    ] {
        let error = read(key, value).unwrap_err().to_string();
        assert!(error.contains(word), "{key}: {error}");
    }
    assert!(read("final_logit_softcapping", Value::Null).is_ok() && read("partial_rotary_factor", json!(1.0)).is_ok());
}

#[test]
fn a_family_reads_keys_that_others_refuse() {
    let factors = |name: &str| json!({"model_type": name, "logits_scaling": 8.0, "attention_multiplier": 0.5});
    let config = with(&factors("granite")).unwrap();
    assert_eq!((config.logits_scaling, config.attention_scale), (Some(8.0), 0.5));
    assert!(with(&factors("qwen2")).unwrap_err().to_string().contains("`attention_multiplier` is 0.5"));
    let mut other = factors("granite");
    other["final_logit_softcapping"] = json!(30.0);
    assert!(with(&other).unwrap_err().to_string().contains("final_logit_softcapping"));
}

#[test]
fn the_factor_on_queries_grows_with_the_position() {
    let scaling = QueryScaling { beta: 0.1, length: 16 };
    // `get_llama_4_attn_scale` of transformers 5.23.
    for (position, expected) in [(0, 1.0), (15, 1.0), (16, 1.069_314_7), (47, 1.109_861_2), (48, 1.138_629_4)] {
        assert!((scaling.factor(position) - expected).abs() < 1e-6, "{position}");
    }
    let wrong = ModelConfig { query_scaling: Some(QueryScaling { beta: 0.1, length: 0 }), ..with(&json!({})).unwrap() };
    assert!(wrong.check().unwrap_err().to_string().contains("the factor on queries"));
}

#[test]
fn rotated_elements_are_an_even_number_of_those_of_a_head() {
    let rotating = |rotary_dim| ModelConfig { rotary_dim, ..with(&json!({"head_dim": 16})).unwrap() };
    assert_eq!((rotating(None).rotated_elements(), rotating(Some(12)).rotated_elements()), (16, 12));
    assert!(rotating(Some(12)).check().is_ok());
    for wrong in [0, 7, 18] {
        let error = rotating(Some(wrong)).check().unwrap_err().to_string();
        assert!(error.contains("`partial_rotary_factor`") && error.ends_with(&format!("got {wrong}")), "{error}");
    }
}

#[test]
fn dropouts_other_than_0_are_listed() {
    let json = json!({"attention_dropout": 0.1, "hidden_dropout": 0, "resid_pdrop": 0.0, "embd_pdrop": null, "residual_dropout": 0.2});
    assert_eq!(ignored_dropouts(&json), [("attention_dropout", 0.1), ("residual_dropout", 0.2)]);
}

#[test]
fn the_error_for_an_unknown_model_type_lists_the_known_ones() {
    let error = read("model_type", json!("mamba")).unwrap_err();
    assert!(matches!(&error, ModelError::UnknownModelType { known, .. } if known.contains("gemma3_text")), "{error}");
}

// The losses of transformers with these files: 1.3754 with the inner theta, 2.3347 with the scaling of Llama 3.
#[test]
fn rotary_parameters_are_read_as_transformers_reads_them() {
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
    // A null type is as good as none.
    let config = with(&json!({"rope_scaling": {"rope_type": null, "type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(config.rotary[0].scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    // As Phi-3 has it, the original length stands beside the parameters.
    let yarn = json!({"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 16});
    let config = with(&json!({"rope_scaling": yarn, "original_max_position_embeddings": 32})).unwrap();
    let scaling = RopeScaling::Yarn {
        factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_position_embeddings: 32,
        attention_factor: 1.0,
        truncate: true,
    };
    assert_eq!(config.rotary[0].scaling, Some(scaling));
    // An empty or null `rope_scaling` counts as absent.
    for nothing in [json!({}), Value::Null] {
        let config = with(&json!({"rope_scaling": nothing, "rope_parameters": {"rope_theta": 7.0}})).unwrap();
        assert_eq!(config.rotary, [RotaryConfig { theta: 7.0, scaling: None }]);
    }
}

#[test]
fn absent_keys_have_the_default_of_their_class() {
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
fn layers_of_qwen_from_max_window_layers_on_slide_with_use_sliding_window() {
    let qwen = |more: Value| {
        let mut all = json!({"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 16, "max_window_layers": 3});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(&all).map(|config| (0..4).map(|layer| config.window(layer)).collect::<Vec<_>>())
    };
    assert_eq!(qwen(json!({})).unwrap(), [None; 4]);
    assert_eq!(qwen(json!({"use_sliding_window": true})).unwrap(), [None, None, None, Some(16)]);
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    assert_eq!(qwen(json!({"use_sliding_window": true, "layer_types": types})).unwrap(), [Some(16), None, None, None]);
    // transformers does not run these either.
    for more in
        [json!({"layer_types": types}), json!({"use_sliding_window": true, "sliding_window": null, "layer_types": types})]
    {
        assert!(qwen(more).unwrap_err().to_string().contains("`sliding_window`: expected a number of tokens"));
    }
    assert_eq!(qwen(json!({"use_sliding_window": true, "sliding_window": null})).unwrap(), [None; 4]);
    for (wrong, word) in [(json!(["full_attention"]), "got 1"), (json!(vec!["linear_attention"; 4]), "linear_attention")] {
        assert!(qwen(json!({"layer_types": wrong})).unwrap_err().to_string().contains(word));
    }
}

/// `config.json` of google/gemma-3-4b, without most keys of the vision part.
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
    // google/gemma-3-4b without its vision part.
    assert_eq!(config.parameter_count(), 3_880_263_168);
    assert_eq!((config.attention_scale, config.embedding_scale), (1.0 / 16.0, Some(2560f64.sqrt())));
    let mut other = gemma();
    other["text_config"]["query_pre_attn_scalar"] = json!(144);
    let other = ModelConfig::from_json(&other).unwrap();
    assert_eq!((other.attention_scale, other.embedding_scale), (1.0 / 12.0, config.embedding_scale));
    assert_eq!(text_part(&gemma())["architectures"], json!(["Gemma3ForCausalLM"]));
}

#[test]
fn rope_parameters_of_a_kind_of_layer_take_precedence_over_older_keys() {
    let mut json = gemma()["text_config"].clone();
    json["rope_theta"] = json!(5.0);
    json["rope_local_base_freq"] = json!(6.0);
    json["rope_parameters"] = json!({"sliding_attention": {"rope_theta": 7.0, "rope_type": "default"}});
    let config = ModelConfig::from_json(&json).unwrap();
    assert_eq!(config.rotary.iter().map(|rotary| rotary.theta).collect::<Vec<_>>(), [5.0, 7.0]);
}

/// Of the two shapes of `rope_parameters`, transformers 5.23 reads only the nested one for Gemma 3.
#[test]
fn gemma_3_ignores_rotary_parameters_outside_a_kind_of_layer() {
    let mut json = gemma()["text_config"].clone();
    json["rope_scaling"] = Value::Null;
    json["rope_parameters"] = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5});
    let default = |theta: f64| RotaryConfig { theta, scaling: None };
    assert_eq!(ModelConfig::from_json(&json).unwrap().rotary, [default(1e6), default(1e4)]);
    json["rope_parameters"]["full_attention"] = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 7.0});
    json["rope_parameters"]["sliding_attention"] = Value::Null;
    let linear = RotaryConfig { theta: 7.0, scaling: Some(RopeScaling::Linear { factor: 8.0 }) };
    assert_eq!(ModelConfig::from_json(&json).unwrap().rotary, [linear, default(1e4)]);
    json["rope_local_base_freq"] = json!("10000");
    assert!(ModelConfig::from_json(&json).unwrap_err().to_string().contains("`rope_local_base_freq`"));
}

#[test]
fn layer_types_of_gemma_3_take_precedence_over_sliding_window_pattern() {
    let full = |more: Value| {
        let mut json = gemma()["text_config"].clone();
        json["num_hidden_layers"] = json!(4);
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = ModelConfig::from_json(&json).map_err(|error| error.to_string())?;
        Ok::<_, String>((0..4).filter(|layer| config.window(*layer).is_none()).collect::<Vec<_>>())
    };
    let types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"];
    assert_eq!(full(json!({"sliding_window_pattern": 2})), Ok(vec![1, 3]));
    assert_eq!(full(json!({"sliding_window_pattern": null, "layer_types": types})), Ok(vec![0, 2]));
    assert_eq!(full(json!({"sliding_window_pattern": 3, "layer_types": types})), Ok(vec![0, 2]));
    assert!(full(json!({"sliding_window_pattern": 0})).unwrap_err().contains("`sliding_window_pattern`"));
    // transformers does not run these either.
    assert!(full(json!({"sliding_window_pattern": null})).unwrap_err().contains("got null"));
    assert!(full(json!({"sliding_window": null})).unwrap_err().contains("`sliding_window`: expected a number of tokens"));
    assert!(full(json!({"layer_types": types[..3]})).unwrap_err().contains("expected 4 entries, one per layer, got 3"));
    assert_eq!(full(json!({"sliding_window": null, "layer_types": vec!["full_attention"; 4]})), Ok(vec![0, 1, 2, 3]));
    let mut json = gemma()["text_config"].clone();
    json["attention_bias"] = json!(true);
    let biases = Biases { query_key_value: true, attention_output: true, mlp: false };
    assert_eq!(ModelConfig::from_json(&json).unwrap().biases, biases);
    assert!(full(json!({"query_pre_attn_scalar": 0})).unwrap_err().contains("`query_pre_attn_scalar`"));
    assert!(full(json!({"final_logit_softcapping": 30.0})).unwrap_err().contains("`final_logit_softcapping`"));
}
