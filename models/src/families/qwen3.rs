//! Dense Qwen3 models: the heads of queries and keys are normalised.
//!
//! Source: `configuration_qwen3.py` and `modeling_qwen3.py` of transformers 5; `conversion/qwen.py` of llama.cpp;
//! Yang et al. 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::Result;
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "qwen3", class: "Qwen3ForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "qwen3",
        reads: &[],
        has_windows: false,
        has_rope_freqs: false,
        write,
        read: |_, _| Ok(()),
    },
    mlx: MlxModel::PLAIN,
};

/// llama.cpp does not read biases of Qwen3.
fn write(config: &ModelConfig, _: &mut Metadata) -> std::result::Result<(), String> {
    if config.biases == Biases::default() {
        return Ok(());
    }
    Err("llama.cpp does not support `attention_bias` for Qwen3".to_owned())
}

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `Qwen3Config`.
#[derive(Debug, Deserialize)]
struct Qwen3Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    #[serde(default = "head_dim")]
    head_dim: usize,
    hidden_act: Option<String>,
    #[serde(default = "max_position_embeddings")]
    max_position_embeddings: usize,
    #[serde(default = "rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    #[serde(default = "max_window_layers")]
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
}

fn max_position_embeddings() -> usize {
    32_768
}

fn rms_norm_eps() -> f64 {
    1e-6
}

fn head_dim() -> usize {
    128
}

fn max_window_layers() -> usize {
    28
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Qwen3Config = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        head_dim: Some(config.head_dim),
        max_position_embeddings: config.max_position_embeddings,
    };
    let biased = config.attention_bias;
    // An absent window has the default; a null means no window.
    let window = config.sliding_window.or_else(|| json.get("sliding_window").is_none().then_some(4096));
    let window = window.filter(|_| config.use_sliding_window);
    let layers = LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, |layer| {
        window.is_some() && layer >= config.max_window_layers
    })?;
    let plain = ModelConfig::plain(&FAMILY, "qwen3".to_owned(), sizes, TokenIds::read(json)?)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        sliding_window: window,
        layers,
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}
