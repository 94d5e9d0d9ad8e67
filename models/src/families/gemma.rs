//! Gemma 1: a Llama with norms of `1 + w`, the activation GELU, and an embedding that is multiplied by the root of its width.
//!
//! Source: `configuration_gemma.py` and `modeling_gemma.py` of transformers 5; `conversion/gemma.py` and `src/models/gemma.cpp` of
//! llama.cpp; Gemma Team 2024.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, MlxModel, ModelConfig, ModelType, RopeScaling, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::Result;
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "gemma", class: "GemmaForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 1.0,
    gguf: GgufArchitecture { name: "gemma", reads: &[], has_windows: false, has_rope_freqs: false, write, read },
    mlx: MlxModel { adapt, ..MlxModel::PLAIN },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `GemmaConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct GemmaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_act: Option<String>,
    /// Of transformers 4, where it took precedence.
    hidden_activation: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
}

impl Default for GemmaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 3072,
            intermediate_size: 24_576,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 256,
            hidden_act: None,
            hidden_activation: None,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: GemmaConfig = parse(json)?;
    // Published files say `gelu`, which transformers reads as the approximation by tanh.
    let activation = config.hidden_act.as_deref().filter(|name| *name != "gelu");
    require_activation("hidden_act", activation, Activation::GeluTanh)?;
    require_activation("hidden_activation", config.hidden_activation.as_deref(), Activation::GeluTanh)?;
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
    let plain = ModelConfig::plain(&FAMILY, "gemma".to_owned(), sizes, tokens)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        activation: Activation::GeluTanh,
        biases: Biases { query_key_value: config.attention_bias, attention_output: config.attention_bias, mlp: false },
        embedding_scale: Some((config.hidden_size as f64).sqrt()),
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// llama.cpp's Gemma has no biases, and the embedding as its head.
fn write(config: &ModelConfig, _: &mut Metadata) -> std::result::Result<(), String> {
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for Gemma".to_owned());
    }
    if !config.tie_word_embeddings {
        return Err("`tie_word_embeddings`: llama.cpp expects that the head of Gemma is its embedding".to_owned());
    }
    Ok(())
}

fn scaling(config: &ModelConfig) -> Option<&RopeScaling> {
    config.rotary.first().and_then(|rotary| rotary.scaling.as_ref())
}

#[allow(clippy::unnecessary_wraps, reason = "the type of every family's `read`")]
fn read(_: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    config.insert("hidden_act".to_owned(), json!("gelu_pytorch_tanh"));
    Ok(())
}

fn adapt(config: &ModelConfig, _: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let gelu = "mlx-lm computes the GELU of gemma itself, not its approximation by tanh: the results differ slightly";
    let rotary = "mlx-lm does not scale the rotary frequencies of gemma (`rope_scaling`): the results differ";
    if !config.tie_word_embeddings {
        return Err("`tie_word_embeddings`: mlx-lm expects that the head of Gemma is its embedding".to_owned());
    }
    if config.biases != Biases::default() {
        return Err("mlx-lm does not support `attention_bias` for Gemma".to_owned());
    }
    Ok([Some(gelu), scaling(config).map(|_| rotary)].into_iter().flatten().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_are_read() {
        // google/gemma-2b.
        let config = configure(&json!({
            "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256,
            "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2048,
            "intermediate_size": 16_384, "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8,
            "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-6,
            "rope_scaling": null, "rope_theta": 10_000.0, "vocab_size": 256_000,
        }))
        .unwrap();
        assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (8, 1, 256));
        assert_eq!((config.embedding_scale, config.attention_scale), (Some(2048f64.sqrt()), 1.0 / 16.0));
        assert!(config.activation == Activation::GeluTanh && config.tie_word_embeddings);
        assert_eq!(config.rotary, [RotaryConfig { theta: 10_000.0, scaling: None }]);
        assert_eq!((config.bos_token_id, config.eos_token_id.as_slice(), config.pad_token_id), (Some(2), &[1][..], Some(0)));
        assert_eq!(config.parameter_count(), 2_506_172_416);
        // google/gemma-7b has the defaults. There, `num_attention_heads · head_dim` exceeds `hidden_size`.
        let config = configure(&json!({ "model_type": "gemma", "hidden_act": "gelu" })).unwrap();
        assert_eq!((config.num_attention_heads * config.head_dim, config.hidden_size), (4096, 3072));
        assert_eq!(config.parameter_count(), 8_537_680_896);
    }

    #[test]
    fn another_activation_is_refused() {
        for (key, value) in [("hidden_act", "silu"), ("hidden_activation", "gelu")] {
            let error = configure(&json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`: expected gelu_pytorch_tanh, got `{value}`")), "{error}");
        }
    }

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: Value| write(&configure(&json).unwrap(), &mut Metadata::default());
        let linear = json!({ "rope_type": "linear", "factor": 2.0 });
        assert!(written(json!({ "rope_scaling": linear })).is_ok());
        for (key, value) in [("attention_bias", json!(true)), ("tie_word_embeddings", json!(false))] {
            let error = written(json!({ key: value })).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
        let notes = |json: Value| adapt(&configure(&json).unwrap(), &mut Map::new());
        assert_eq!(notes(json!({})).unwrap().len(), 1);
        assert_eq!(notes(json!({ "rope_scaling": linear })).unwrap().len(), 2);
        for (key, value) in [("attention_bias", true), ("tie_word_embeddings", false)] {
            assert!(notes(json!({ key: value })).unwrap_err().contains(key));
        }
    }
}
