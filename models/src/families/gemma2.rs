//! Gemma 2: norms of `1 + w` around attention and feed-forward, soft-caps on attention scores and logits, and every second layer
//! slides.
//!
//! Source: `configuration_gemma2.py` and `modeling_gemma2.py` of transformers 5; `conversion/gemma.py` and
//! `src/models/gemma2.cpp` of llama.cpp; Gemma Team 2024.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::{Metadata, shortest};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "gemma2", class: "Gemma2ForCausalLM" }],
    configure,
    reads: &["attn_logit_softcapping", "final_logit_softcapping"],
    parts: PARTS,
    norm_offset: 1.0,
    gguf: GgufArchitecture {
        name: "gemma2",
        reads: &["attn_logit_softcapping", "final_logit_softcapping"],
        has_windows: true,
        has_rope_freqs: false,
        write,
        read,
    },
    mlx: MlxModel { adapt, ..MlxModel::PLAIN },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::FeedForwardNorm, "pre_feedforward_layernorm", "ffn_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::PostFeedForwardNorm, "post_feedforward_layernorm", "post_ffw_norm"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// The number of layers by which llama.cpp recognises the 27B model, whose attention scores have another factor.
const LAYERS_27B: usize = 46;
/// The window of llama.cpp for a file that names none.
const WINDOW: usize = 4096;
/// The soft-caps of llama.cpp for a file that names none.
const ATTENTION_CAP: f64 = 50.0;
const LOGITS_CAP: f64 = 30.0;

/// `Gemma2Config`. Published files leave out keys that have the default.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Gemma2Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_activation: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
    final_logit_softcapping: Option<f64>,
    attn_logit_softcapping: Option<f64>,
}

impl Default for Gemma2Config {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: None,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(WINDOW),
            layer_types: None,
            final_logit_softcapping: Some(LOGITS_CAP),
            attn_logit_softcapping: Some(ATTENTION_CAP),
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Gemma2Config = parse(json)?;
    require_activation("hidden_activation", config.hidden_activation.as_deref(), Activation::GeluTanh)?;
    for (key, value) in [
        ("query_pre_attn_scalar", Some(config.query_pre_attn_scalar)),
        ("attn_logit_softcapping", config.attn_logit_softcapping),
        ("final_logit_softcapping", config.final_logit_softcapping),
    ] {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return Err(ModelError::Config { reason: format!("`{key}`: expected a positive number, got {value}") });
        }
    }
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: Some(config.head_dim),
        max_position_embeddings: config.max_position_embeddings,
    };
    let tokens = TokenIds { bos: Some(2), eos: vec![1], pad: Some(0) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "gemma2".to_owned(), sizes, tokens)?;
    let biased = config.attention_bias;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        activation: Activation::GeluTanh,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        attention_scale: config.query_pre_attn_scalar.powf(-0.5),
        attention_softcap: config.attn_logit_softcapping,
        embedding_scale: Some((config.hidden_size as f64).sqrt()),
        logits_softcap: config.final_logit_softcapping,
        sliding_window: config.sliding_window,
        layers: LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, slides)?,
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// Whether the layer of that index slides, unless the file says otherwise; llama.cpp always assumes it.
fn slides(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

/// What llama.cpp takes for `query_pre_attn_scalar`.
fn query_scalar(layers: usize, hidden: usize, heads: usize, head_dim: usize) -> usize {
    if layers == LAYERS_27B { hidden / heads.max(1) } else { head_dim }
}

fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let layers = config.num_hidden_layers;
    let scalar = query_scalar(layers, config.hidden_size, config.num_attention_heads, config.head_dim);
    if ((scalar as f64).powf(-0.5) - config.attention_scale).abs() > 1e-9 {
        let own = config.attention_scale.powi(-2);
        return Err(format!("`query_pre_attn_scalar`: llama.cpp expects {scalar} for a Gemma 2 of this size, got {own:.0}"));
    }
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for Gemma 2".to_owned());
    }
    if !config.tie_word_embeddings {
        return Err("`tie_word_embeddings`: llama.cpp expects that the head of Gemma 2 is its embedding".to_owned());
    }
    let window = config.sliding_window.filter(|_| (0..layers).all(|layer| config.layer(layer).is_sliding == slides(layer)));
    let Some(window) = window else {
        return Err(
            "`layer_types`: llama.cpp expects that every second layer of Gemma 2 is full, and the others slide".into()
        );
    };
    metadata.insert("gemma2.attention.sliding_window", window);
    for (key, cap) in
        [("attn_logit_softcapping", config.attention_softcap), ("final_logit_softcapping", config.logits_softcap)]
    {
        let cap = cap.ok_or_else(|| format!("`{key}`: llama.cpp expects a number for Gemma 2, got null"))?;
        metadata.insert(format!("gemma2.{key}"), cap);
    }
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let pattern = metadata.optional_number("gemma2.attention.sliding_window_pattern")?;
    if let Some(pattern) = pattern.filter(|pattern| *pattern != 2) {
        return Err(format!("`gemma2.attention.sliding_window_pattern`: expected 2, got {pattern}"));
    }
    let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    let (layers, hidden) = (size("num_hidden_layers"), size("hidden_size"));
    let scalar = query_scalar(layers, hidden, size("num_attention_heads"), size("head_dim"));
    let theta = config.get("rope_theta").and_then(Value::as_f64);
    let sliding = metadata.optional_float("gemma2.rope.freq_base_swa")?.map(shortest);
    if let Some(sliding) = sliding.filter(|sliding| Some(*sliding) != theta) {
        return Err(format!(
            "`gemma2.rope.freq_base_swa` is {sliding}, other than `rope.freq_base`, which is not supported"
        ));
    }
    let window = metadata.optional_number("gemma2.attention.sliding_window")?.unwrap_or(WINDOW);
    config.remove("hidden_act");
    config.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
    config.insert("query_pre_attn_scalar".to_owned(), json!(scalar));
    config.insert("sliding_window".to_owned(), json!(window));
    for (key, default) in [("attn_logit_softcapping", ATTENTION_CAP), ("final_logit_softcapping", LOGITS_CAP)] {
        let cap = metadata.optional_float(&format!("gemma2.{key}"))?.map_or(default, shortest);
        config.insert(key.to_owned(), json!(cap));
    }
    Ok(())
}

fn adapt(config: &ModelConfig, _: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let of_window =
        |window| format!("mlx-lm has no sliding window for gemma2: the results are the same up to {window} tokens");
    Ok(config.window(0).map(of_window).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_caps_are_read_and_null_means_none() {
        let caps = |json: Value| configure(&json).map(|config| (config.attention_softcap, config.logits_softcap));
        assert_eq!(caps(json!({})).unwrap(), (Some(50.0), Some(30.0)));
        let none = json!({ "attn_logit_softcapping": null, "final_logit_softcapping": null });
        assert_eq!(caps(none).unwrap(), (None, None));
        for key in FAMILY.reads.iter().chain(&["query_pre_attn_scalar"]) {
            let error = caps(json!({ *key: 0.0 })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`: expected a positive number")), "{error}");
        }
    }

    #[test]
    fn every_second_layer_slides() {
        let config = configure(&json!({ "num_hidden_layers": 3 })).unwrap();
        let windows: Vec<_> = (0..3).map(|layer| config.window(layer)).collect();
        assert_eq!(windows, [Some(4096), None, Some(4096)]);
    }

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: &Value| {
            let mut metadata = Metadata::default();
            write(&configure(json).unwrap(), &mut metadata).map(|()| metadata)
        };
        // The published sizes: 2B, 9B and 27B.
        for published in [
            json!({}),
            json!({ "num_hidden_layers": 42, "hidden_size": 3584, "num_attention_heads": 16 }),
            json!({ "num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128,
                "query_pre_attn_scalar": 144 }),
        ] {
            assert!(written(&published).is_ok(), "{published}");
        }
        for (key, value) in [
            ("query_pre_attn_scalar", json!(224)),
            ("attention_bias", json!(true)),
            ("tie_word_embeddings", json!(false)),
            ("layer_types", json!(vec!["full_attention"; 26])),
            ("attn_logit_softcapping", Value::Null),
            ("final_logit_softcapping", Value::Null),
        ] {
            let error = written(&json!({ key: value })).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn keys_of_a_gguf_file_have_the_defaults_of_llama_cpp() {
        let with = |entries: &[(&str, f64)]| {
            let mut config = json!({ "num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32,
                "head_dim": 128, "rope_theta": 10_000.0 });
            let mut metadata = Metadata::default();
            for (key, value) in entries {
                metadata.insert(format!("gemma2.{key}"), *value);
            }
            read(&metadata, config.as_object_mut().unwrap()).map(|()| config)
        };
        let config = with(&[("rope.freq_base_swa", 1e4)]).unwrap();
        assert_eq!((&config["query_pre_attn_scalar"], &config["sliding_window"]), (&json!(144), &json!(4096)));
        assert_eq!((&config["attn_logit_softcapping"], &config["final_logit_softcapping"]), (&json!(50.0), &json!(30.0)));
        for key in ["attention.sliding_window_pattern", "rope.freq_base_swa"] {
            assert!(with(&[(key, 3.0)]).unwrap_err().contains(key));
        }
    }
}
