//! Seed-OSS: a Llama whose queries, keys and values have biases, and and `num_attention_heads · head_dim` need not be `hidden_size`.
//!
//! Source: `configuration_seed_oss.py` and `modeling_seed_oss.py` of transformers 5; `conversion/olmo.py` and
//! `src/models/seed-oss.cpp` of llama.cpp.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, insert_absent, parse,
    require_activation,
};
use crate::error::Result;
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "seed_oss", class: "SeedOssForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "seed_oss",
        reads: &[],
        has_windows: false,
        has_rope_freqs: false,
        write,
        read: |_, _| Ok(()),
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
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `SeedOssConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct SeedOssConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    attention_out_bias: bool,
    mlp_bias: bool,
}

impl Default for SeedOssConfig {
    fn default() -> Self {
        Self {
            vocab_size: 155_136,
            hidden_size: 4096,
            intermediate_size: 27_648,
            num_hidden_layers: 64,
            num_attention_heads: 80,
            num_key_value_heads: Some(8),
            head_dim: Some(128),
            hidden_act: None,
            max_position_embeddings: 524_288,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: true,
            attention_out_bias: false,
            mlp_bias: false,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: SeedOssConfig = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
    };
    let tokens = TokenIds { bos: Some(0), eos: vec![2], pad: Some(1) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "seed_oss".to_owned(), sizes, tokens)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases {
            query_key_value: config.attention_bias,
            attention_output: config.attention_out_bias,
            mlp: config.mlp_bias,
        },
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// llama.cpp's Seed-OSS has biases only of queries, keys and values.
fn write(config: &ModelConfig, _: &mut Metadata) -> std::result::Result<(), String> {
    for (key, is_set) in [("attention_out_bias", config.biases.attention_output), ("mlp_bias", config.biases.mlp)] {
        if is_set {
            return Err(format!("llama.cpp does not support `{key}` for Seed-OSS"));
        }
    }
    Ok(())
}

/// mlx-lm has other defaults for these keys, and none for `head_dim`.
#[allow(clippy::unnecessary_wraps, reason = "the type of every family's `adapt`")]
fn adapt(config: &ModelConfig, json: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    insert_absent(json, "attention_bias", Some(json!(config.biases.query_key_value)));
    insert_absent(json, "tie_word_embeddings", Some(json!(config.tie_word_embeddings)));
    insert_absent(json, "head_dim", Some(json!(config.head_dim)));
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ByteDance-Seed/Seed-OSS-36B-Instruct.
    fn published() -> Value {
        json!({
            "model_type": "seed_oss", "attention_bias": true, "attention_dropout": 0.1, "attention_out_bias": false,
            "bos_token_id": 0, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
            "intermediate_size": 27_648, "max_position_embeddings": 524_288, "mlp_bias": false, "num_attention_heads": 80,
            "num_hidden_layers": 64, "num_key_value_heads": 8, "pad_token_id": 1, "residual_dropout": 0.1,
            "rms_norm_eps": 1e-6, "rope_scaling": { "rope_type": "default" }, "rope_theta": 1e7,
            "tie_word_embeddings": false, "vocab_size": 155_136,
        })
    }

    #[test]
    fn the_published_size_is_read() {
        let config = configure(&published()).unwrap();
        let biases = Biases { query_key_value: true, ..Biases::default() };
        assert_eq!((config.num_attention_heads * config.head_dim, config.biases), (2 * config.hidden_size, biases));
        assert_eq!(config.rotary, [RotaryConfig { theta: 1e7, scaling: None }]);
        assert_eq!((config.bos_token_id, config.eos_token_id.as_slice(), config.pad_token_id), (Some(0), &[2][..], Some(1)));
        assert_eq!(config.parameter_count(), 36_151_104_512);
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers_and_null_heads_follow_from_other_sizes() {
        let config = configure(&json!({})).unwrap();
        assert_eq!((config.hidden_size, config.num_key_value_heads, config.head_dim), (4096, 8, 128));
        assert_eq!((config.biases.query_key_value, config.rotary[0].theta), (true, 1e4));
        let nulls = json!({ "num_key_value_heads": null, "head_dim": null, "num_attention_heads": 32 });
        let config = configure(&nulls).unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (32, 128));
    }

    #[test]
    fn mlx_reads_the_defaults_of_transformers() {
        let mut json = Map::new();
        assert_eq!(adapt(&configure(&json!({})).unwrap(), &mut json), Ok(Vec::new()));
        let expected = json!({ "attention_bias": true, "tie_word_embeddings": false, "head_dim": 128 });
        assert_eq!(Value::Object(json), expected);
    }

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |key: &str, value: Value| {
            let mut json = published();
            json[key] = value;
            write(&configure(&json).unwrap(), &mut Metadata::default())
        };
        assert!(written("rope_scaling", json!({ "rope_type": "linear", "factor": 2.0 })).is_ok());
        assert!(written("attention_bias", json!(false)).is_ok() && written("tie_word_embeddings", json!(true)).is_ok());
        for (key, value) in [("attention_out_bias", json!(true)), ("mlp_bias", json!(true))] {
            let error = written(key, value).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
