//! EXAONE 4: norms only after attention and feed-forward, and norms of each query and key head. If there are windows, three of four
//! layers slide, and the others have no rotation.
//!
//! Source: `configuration_exaone4.py` and `modeling_exaone4.py` of transformers 5; `conversion/exaone.py` and
//! `src/models/exaone4.cpp` of llama.cpp; LG AI Research 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, insert_absent,
    parse, require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::architecture::{check_head_dim, layer_types};
use crate::gguf::metadata::{Metadata, Value as GgufValue};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "exaone4", class: "Exaone4ForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture { name: "exaone4", reads: &[], has_windows: true, has_rope_freqs: true, write, read },
    mlx: MlxModel { adapt, ..MlxModel::PLAIN },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::PostFeedForwardNorm, "post_feedforward_layernorm", "post_ffw_norm"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// The number of layers by which llama.cpp recognises the 32B model, the only one that has windows there.
const LAYERS_32B: usize = 64;
/// The window, unless the file says otherwise.
const WINDOW: usize = 4096;
/// Every fourth layer is full, unless the file says otherwise.
const PERIOD: usize = 4;

/// `Exaone4Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Exaone4Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    /// Not a field of the class, but its attention uses it if the file has it.
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    sliding_window: Option<usize>,
    /// Every how many layers one is full; published files have letters too, which are read only by mlx-lm.
    sliding_window_pattern: Value,
    layer_types: Option<Vec<String>>,
}

impl Default for Exaone4Config {
    fn default() -> Self {
        Self {
            vocab_size: 102_400,
            hidden_size: 4096,
            intermediate_size: 16_384,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            sliding_window: Some(WINDOW),
            sliding_window_pattern: json!(PERIOD),
            layer_types: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Exaone4Config = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
    };
    let layers = layers(&config)?;
    let tokens = TokenIds { bos: Some(0), eos: vec![2], pad: None }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "exaone4".to_owned(), sizes, tokens)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        sliding_window: config.sliding_window,
        layers,
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// Which layers slide, and which rotate: all of them without a window, otherwise those that slide.
fn layers(config: &Exaone4Config) -> Result<Vec<LayerConfig>> {
    let has_window = config.sliding_window.is_some();
    let pattern = &config.sliding_window_pattern;
    let period = pattern.as_u64().filter(|period| *period > 0);
    if has_window && config.layer_types.is_none() && period.is_none() {
        let reason = format!("`sliding_window_pattern`: expected at least 1 without `layer_types`, got {pattern}");
        return Err(ModelError::Config { reason });
    }
    let period = period.map_or(PERIOD, |period| period as usize);
    let slides = |layer: usize| has_window && !(layer + 1).is_multiple_of(period);
    let mut layers = LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, slides)?;
    for layer in &mut layers {
        layer.rotary = (layer.is_sliding || !has_window).then_some(0);
    }
    Ok(layers)
}

/// In llama.cpp's EXAONE 4, `head_dim` is `hidden_size / num_attention_heads`, and there are windows only in 64 layers, which always have
/// them.
fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    check_head_dim(config, "EXAONE 4")?;
    let layers = config.num_hidden_layers;
    match config.sliding_window {
        Some(window) if layers == LAYERS_32B => {
            let sliding = (0..layers).map(|layer| config.layer(layer).is_sliding);
            metadata.insert("exaone4.attention.sliding_window", window);
            metadata.insert("exaone4.attention.sliding_window_pattern", sliding.collect::<GgufValue>());
            Ok(())
        }
        None if layers != LAYERS_32B => Ok(()),
        window => {
            let (expected, got) = (if window.is_some() { "null" } else { "a number" }, json!(window));
            Err(format!("`sliding_window`: llama.cpp expects {expected} for an EXAONE 4 of {layers} layers, got {got}"))
        }
    }
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let key = |name: &str| format!("exaone4.{name}");
    if let Some(count) = metadata.optional_number(&key("nextn_predict_layers"))?.filter(|count| *count > 0) {
        return Err(format!("`exaone4.nextn_predict_layers` is {count}, which is not supported"));
    }
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
    // Without `layer_types`, transformers divides by `sliding_window_pattern`, and sets that to 0 if there is no window.
    let (window, kinds) = if layers == LAYERS_32B {
        let theta = config.get("rope_theta").and_then(Value::as_f64);
        let window = metadata.optional_number(&key("attention.sliding_window"))?.unwrap_or(WINDOW);
        (json!(window), layer_types(metadata, "exaone4", layers, PERIOD, theta)?)
    } else {
        (Value::Null, vec!["full_attention"; layers])
    };
    config.insert("sliding_window".to_owned(), window);
    config.insert("layer_types".to_owned(), json!(kinds));
    Ok(())
}

/// mlx-lm has no defaults for these keys, and reads windows as a letter for each layer, both of which it looks for.
fn adapt(config: &ModelConfig, json: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let letter = |layer| if config.layer(layer).is_sliding { 'L' } else { 'G' };
    let pattern: Option<String> = config.sliding_window.map(|_| (0..config.num_hidden_layers).map(letter).collect());
    if pattern.as_ref().is_some_and(|pattern| !pattern.contains('L') || !pattern.contains('G')) {
        return Err("`layer_types`: mlx-lm expects both kinds of layers of an EXAONE 4 with a window".to_owned());
    }
    let kind = |layer| if config.layer(layer).is_sliding { "sliding_attention" } else { "full_attention" };
    let kinds: Vec<_> = (0..config.num_hidden_layers).map(kind).collect();
    json.insert("sliding_window_pattern".to_owned(), json!(pattern));
    insert_absent(json, "layer_types", Some(json!(kinds)));
    insert_absent(json, "rope_theta", config.rotary.first().map(|rotary| json!(rotary.theta)));
    insert_absent(json, "tie_word_embeddings", Some(json!(config.tie_word_embeddings)));
    json.insert("sliding_window".to_owned(), json!(config.sliding_window));
    json.entry("rope_scaling").or_insert(Value::Null);
    insert_absent(json, "head_dim", Some(json!(config.head_dim)));
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(base: Value, more: &Value) -> Value {
        let mut json = base;
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json
    }

    fn llama3() -> Value {
        json!({ "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192 })
    }

    /// LGAI-EXAONE/EXAONE-4.0-1.2B.
    fn small() -> Value {
        json!({
            "model_type": "exaone4", "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 361, "pad_token_id": 0,
            "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 4096,
            "layer_types": vec!["full_attention"; 30], "max_position_embeddings": 65_536, "num_attention_heads": 32,
            "num_hidden_layers": 30, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": llama3(),
            "rope_theta": 1_000_000, "sliding_window": null, "sliding_window_pattern": null, "tie_word_embeddings": true,
            "vocab_size": 102_400,
        })
    }

    /// LGAI-EXAONE/EXAONE-4.0-32B.
    fn large() -> Value {
        let kinds = (1..=64).map(|layer| if layer % 4 == 0 { "full_attention" } else { "sliding_attention" });
        let more = json!({
            "head_dim": 128, "hidden_size": 5120, "intermediate_size": 27_392, "layer_types": kinds.collect::<Vec<_>>(),
            "max_position_embeddings": 131_072, "num_attention_heads": 40, "num_hidden_layers": 64,
            "sliding_window": 4096, "sliding_window_pattern": "LLLG", "tie_word_embeddings": false,
        });
        with(small(), &more)
    }

    fn windows(config: &ModelConfig) -> Vec<bool> {
        (0..config.num_hidden_layers).map(|layer| config.window(layer).is_some()).collect()
    }

    fn rotating(config: &ModelConfig) -> Vec<bool> {
        (0..config.num_hidden_layers).map(|layer| config.layer(layer).rotary.is_some()).collect()
    }

    #[test]
    fn the_published_sizes_are_read() {
        let config = configure(&small()).unwrap();
        assert_eq!((windows(&config), rotating(&config)), (vec![false; 30], vec![true; 30]));
        assert_eq!((config.rotary[0].theta, config.head_dim, config.parameter_count()), (1e6, 64, 1_279_391_488));
        assert!(config.rotary[0].scaling.is_some() && config.tie_word_embeddings);
        let config = configure(&large()).unwrap();
        assert_eq!((config.window(0), windows(&config)), (Some(4096), [true, true, true, false].repeat(16)));
        assert_eq!((rotating(&config), config.parameter_count()), (windows(&config), 32_003_216_384));
        assert_eq!(
            (config.bos_token_id, config.eos_token_id.as_slice(), config.pad_token_id),
            (Some(1), &[361][..], Some(0))
        );
    }

    #[test]
    fn layers_follow_from_the_pattern_if_they_are_not_listed() {
        let of = |more: Value| configure(&with(json!({ "num_hidden_layers": 4 }), &more));
        assert_eq!(windows(&of(json!({})).unwrap()), [true, true, true, false]);
        let config = of(json!({ "sliding_window_pattern": 2, "sliding_window": 8 })).unwrap();
        assert_eq!((windows(&config), config.window(0)), (vec![true, false, true, false], Some(8)));
        let config = of(json!({ "sliding_window": null })).unwrap();
        assert_eq!((windows(&config), rotating(&config)), (vec![false; 4], vec![true; 4]));
        // With a window, full layers don't rotate, even if none slides.
        let config = of(json!({ "layer_types": vec!["full_attention"; 4] })).unwrap();
        assert_eq!((windows(&config), rotating(&config)), (vec![false; 4], vec![false; 4]));
        // In these, transformers fails.
        for pattern in [json!(0), json!(null), json!("LLLG")] {
            let error = of(json!({ "sliding_window_pattern": pattern })).unwrap_err().to_string();
            assert!(
                error.contains("`sliding_window_pattern`: expected") && error.ends_with(&pattern.to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: Value| write(&configure(&json).unwrap(), &mut Metadata::default());
        assert!(written(small()).is_ok() && written(large()).is_ok());
        for (json, key, value) in [
            (small(), "head_dim", json!(128)),
            (small(), "sliding_window", json!(4096)),
            (with(large(), &json!({ "layer_types": null })), "sliding_window", json!(null)),
        ] {
            let error = written(with(json, &json!({ key: value }))).unwrap_err();
            assert!(
                error.contains(&format!("`{key}`: llama.cpp expects")) && error.ends_with(&value.to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn windows_stay_the_same_in_a_gguf_file() {
        let read = |metadata: &Metadata, json: Value| {
            let mut json = json.as_object().unwrap().clone();
            json.retain(|key, _| !["layer_types", "sliding_window", "sliding_window_pattern"].contains(&key.as_str()));
            read(metadata, &mut json).map(|()| {
                assert_eq!(
                    json["layer_types"].as_array().map(Vec::len),
                    json["num_hidden_layers"].as_u64().map(|n| n as usize)
                );
                configure(&Value::Object(json)).unwrap()
            })
        };
        let pattern = "exaone4.attention.sliding_window_pattern";
        for json in
            [small(), large(), with(large(), &json!({ "sliding_window": 8, "layer_types": vec!["full_attention"; 64] }))]
        {
            let (config, mut metadata) = (configure(&json).unwrap(), Metadata::default());
            write(&config, &mut metadata).unwrap();
            assert_eq!(read(&metadata, json).unwrap(), config);
        }
        // The defaults of llama.cpp, and a number.
        let mut metadata = Metadata::default();
        assert_eq!(read(&metadata, large()).unwrap(), configure(&large()).unwrap());
        metadata.insert(pattern, 2usize);
        assert_eq!(windows(&read(&metadata, large()).unwrap()), [true, false].repeat(32));
        metadata.insert(pattern, 0usize);
        assert_eq!(windows(&read(&metadata, large()).unwrap()), [true; 64]);
        for key in ["rope.freq_base_swa", "nextn_predict_layers"] {
            let mut metadata = Metadata::default();
            metadata.insert(format!("exaone4.{key}"), 3usize);
            assert!(read(&metadata, large()).unwrap_err().contains(key));
        }
    }

    #[test]
    fn mlx_has_every_key_that_it_needs() {
        let mut json = json!({ "sliding_window": 4096, "sliding_window_pattern": 4, "num_hidden_layers": 4 });
        let config = configure(&json).unwrap();
        assert_eq!(adapt(&config, json.as_object_mut().unwrap()), Ok(Vec::new()));
        assert_eq!((&json["sliding_window_pattern"], &json["head_dim"]), (&json!("LLLG"), &json!(128)));
        assert_eq!(json.get("rope_scaling"), Some(&Value::Null));
        assert_eq!((&json["rope_theta"], &json["tie_word_embeddings"]), (&json!(1e4), &json!(false)));
        // What is written is read again.
        assert_eq!(configure(&json).unwrap(), config);
        for kind in ["full_attention", "sliding_attention"] {
            let one = with(json.clone(), &json!({ "layer_types": vec![kind; 4] }));
            let refused = adapt(&configure(&one).unwrap(), &mut one.as_object().unwrap().clone());
            assert!(refused.unwrap_err().contains("`layer_types`"));
        }
    }
}
