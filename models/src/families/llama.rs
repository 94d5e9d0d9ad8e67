//! The Llama family: Llama 2 and 3, SmolLM2, TinyLlama, Mistral.
//!
//! Source: `configuration_llama.py`, `modeling_llama.py` and their Mistral counterparts of transformers 5;
//! `conversion/llama.py` of llama.cpp; Touvron et al. 2023.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds,
    insert_absent, parse, require_activation,
};
use crate::error::Result;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[
        ModelType { name: "llama", class: "LlamaForCausalLM" },
        ModelType { name: "mistral", class: "MistralForCausalLM" },
    ],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "llama",
        reads: &[],
        has_windows: false,
        has_rope_freqs: true,
        write: |_, _| Ok(()),
        read: |_, _| Ok(()),
    },
    mlx: MlxModel { adapt, ..MlxModel::PLAIN },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q").interleaved(),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k").interleaved(),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `LlamaConfig` and `MistralConfig`.
#[derive(Debug, Deserialize)]
struct LlamaConfig {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    #[serde(default = "rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
}

fn rms_norm_eps() -> f64 {
    1e-6
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: LlamaConfig = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    let is_mistral = config.model_type == "mistral";
    // In Mistral, an absent key has the default of the class, which a null overrides.
    let absent = |key: &str, default: usize| json.get(key).is_none().then_some(default).filter(|_| is_mistral);
    let key_value_heads = config.num_key_value_heads.or_else(|| absent("num_key_value_heads", 8));
    let window = config.sliding_window.or_else(|| absent("sliding_window", 4096));
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: key_value_heads.unwrap_or(config.num_attention_heads),
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings.unwrap_or(if is_mistral { 131_072 } else { 2048 }),
    };
    // Like transformers, this ignores a window in a Llama and biases in a Mistral.
    let (biased, mlp_bias) = (config.attention_bias && !is_mistral, config.mlp_bias && !is_mistral);
    let window = window.filter(|_| is_mistral);
    let plain = ModelConfig::plain(&FAMILY, config.model_type, sizes, TokenIds::read(json)?)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: mlp_bias },
        sliding_window: window,
        layers: vec![LayerConfig { is_sliding: window.is_some(), rotary: Some(0) }],
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// mlx-lm computes windows in the layers that are listed.
fn adapt(config: &ModelConfig, json: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    if config.window(0).is_some() {
        insert_absent(json, "layer_types", Some(json!(vec!["sliding_attention"; config.num_hidden_layers])));
    }
    Ok(Vec::new())
}
