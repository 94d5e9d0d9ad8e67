//! OLMo 2: norms only after attention and feed-forward, and norms of queries and keys that span all heads.
//!
//! Source: `configuration_olmo2.py` and `modeling_olmo2.py` of transformers 5; `conversion/olmo.py` and `src/models/olmo2.cpp` of
//! llama.cpp; Team OLMo 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{
    Biases, Family, GgufArchitecture, ModelConfig, ModelType, RopeScaling, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::Result;
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "olmo2", class: "Olmo2ForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture { name: "olmo2", reads: &[], has_windows: false, write, read },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::PostFeedForwardNorm, "post_feedforward_layernorm", "post_ffw_norm"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `Olmo2Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Olmo2Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    /// Not a field of the class, but its attention uses it if the file has it.
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
}

impl Default for Olmo2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_304,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: false,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Olmo2Config = parse(json)?;
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
    let tokens = TokenIds { bos: None, eos: vec![50_279], pad: Some(1) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "olmo2".to_owned(), sizes, tokens)?;
    let biased = config.attention_bias;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        norms_span_heads: true,
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// llama.cpp's OLMo 2 has a head of its own, no biases, no divisors of frequencies, and heads as wide together as the stream.
fn write(config: &ModelConfig, _: &mut Metadata) -> std::result::Result<(), String> {
    if config.tie_word_embeddings {
        return Err("`tie_word_embeddings`: llama.cpp expects that OLMo 2 has a head of its own".to_owned());
    }
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for OLMo 2".to_owned());
    }
    let (heads, width, hidden) = (config.num_attention_heads, config.head_dim, config.hidden_size);
    if heads * width != hidden {
        return Err(format!("`head_dim`: llama.cpp expects {hidden} / {heads} for OLMo 2, got {width}"));
    }
    let scaling = config.rotary.first().and_then(|rotary| rotary.scaling.as_ref());
    if matches!(scaling, Some(RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. })) {
        return Err("`rope_scaling`: llama.cpp has only linear scaling and YaRN for OLMo 2".to_owned());
    }
    Ok(())
}

/// OLMo 3 has the same architecture, but windows, with other frequencies in their layers.
fn read(metadata: &Metadata, _: &mut Map<String, Value>) -> std::result::Result<(), String> {
    match metadata.optional_number("olmo2.attention.sliding_window")?.filter(|window| *window > 0) {
        Some(window) => Err(format!("`olmo2.attention.sliding_window` is {window}: OLMo 3 is not supported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: Value| write(&configure(&json).unwrap(), &mut Metadata::default());
        assert!(written(json!({ "head_dim": 128, "rope_scaling": { "rope_type": "linear", "factor": 2.0 } })).is_ok());
        let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0 });
        for (key, value) in [
            ("tie_word_embeddings", json!(true)),
            ("attention_bias", json!(true)),
            ("head_dim", json!(64)),
            ("rope_scaling", llama3),
        ] {
            let error = written(json!({ key: value })).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn a_gguf_file_of_olmo_3_is_refused() {
        let mut metadata = Metadata::default();
        let read = |metadata: &Metadata| read(metadata, &mut Map::new());
        assert!(read(&metadata).is_ok());
        metadata.insert("olmo2.attention.sliding_window", 4096usize);
        assert!(read(&metadata).unwrap_err().contains("OLMo 3"));
    }
}
