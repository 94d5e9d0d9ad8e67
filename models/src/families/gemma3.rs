//! The text part of Gemma 3: norms of `1 + w` around attention and feed-forward, and five sliding layers for each full one.
//!
//! Source: `configuration_gemma3.py` and `modeling_gemma3.py` of transformers 5; `conversion/gemma.py` and
//! `llama-model.cpp` of llama.cpp; Gemma Team 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds,
    insert_absent, parse, require_activation, theta_of,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::{Metadata, Value as GgufValue};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "gemma3_text", class: "Gemma3ForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 1.0,
    gguf: GgufArchitecture { name: "gemma3", reads: &[], has_windows: true, has_rope_freqs: false, write, read },
    mlx: MlxModel { adapt, ..MlxModel::PLAIN },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
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

/// Every sixth layer is full; the others slide.
const PERIOD: usize = 6;
/// `rope_theta` of full layers.
const FULL_THETA: f64 = 1e6;
/// `rope_theta` of sliding layers.
const SLIDING_THETA: f64 = 1e4;
/// The number of layers by which llama.cpp recognises the 27B model, whose attention scores have another factor.
const LAYERS_27B: usize = 62;

/// `Gemma3TextConfig`. Published files leave out keys that have the default.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Gemma3TextConfig {
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
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
}

impl Default for Gemma3TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 262_208,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: None,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(4096),
            sliding_window_pattern: Some(PERIOD),
            layer_types: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Gemma3TextConfig = parse(json)?;
    if config.query_pre_attn_scalar <= 0.0 {
        let reason = format!("`query_pre_attn_scalar`: expected a positive number, got {}", config.query_pre_attn_scalar);
        return Err(ModelError::Config { reason });
    }
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
    let period = config.sliding_window_pattern.or(config.layer_types.is_some().then_some(PERIOD)).unwrap_or(0);
    if period == 0 {
        let got = json.get("sliding_window_pattern").unwrap_or(&Value::Null);
        return Err(ModelError::Config { reason: format!("`sliding_window_pattern`: expected at least 1, got {got}") });
    }
    let mut layers = LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, |layer| {
        !(layer + 1).is_multiple_of(period)
    })?;
    for layer in &mut layers {
        layer.rotary = Some(usize::from(layer.is_sliding));
    }
    let tokens = TokenIds { bos: Some(2), eos: vec![1], pad: Some(0) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "gemma3_text".to_owned(), sizes, tokens)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        activation: Activation::GeluTanh,
        biases: Biases { query_key_value: config.attention_bias, attention_output: config.attention_bias, mlp: false },
        attention_scale: config.query_pre_attn_scalar.powf(-0.5),
        embedding_scale: Some((config.hidden_size as f64).sqrt()),
        sliding_window: config.sliding_window,
        layers,
        rotary: rotary(json, plain.max_position_embeddings)?,
        ..plain
    })
}

/// The rotary frequencies of full layers, then those of sliding ones. What `rope_parameters` has for a kind of layer takes
/// precedence over the keys of older files.
fn rotary(json: &Value, positions: usize) -> Result<Vec<RotaryConfig>> {
    let kind = |name: &str, theta_key: &str, theta: f64, scaling: Option<&Value>| {
        let inner = json.get("rope_parameters").and_then(|parameters| parameters.get(name)).and_then(Value::as_object);
        let mut merged = inner.cloned().unwrap_or_default();
        merged.extend(scaling.and_then(Value::as_object).cloned().unwrap_or_default());
        let beside = theta_of(json.get(theta_key), theta_key)?.unwrap_or(theta);
        RotaryConfig::from_parameters(&merged, beside, positions)
    };
    Ok(vec![
        kind("full_attention", "rope_theta", FULL_THETA, json.get("rope_scaling"))?,
        kind("sliding_attention", "rope_local_base_freq", SLIDING_THETA, None)?,
    ])
}

/// The sizes that llama.cpp derives the factor on attention scores from.
struct ScoreSizes {
    layers: usize,
    hidden: usize,
    heads: usize,
    head_dim: usize,
}

impl ScoreSizes {
    /// What llama.cpp takes for `query_pre_attn_scalar`.
    fn query_scalar(&self) -> usize {
        if self.layers == LAYERS_27B { self.hidden / self.heads.max(1) } else { self.head_dim }
    }
}

fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let layers = config.num_hidden_layers;
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    let scalar = ScoreSizes { layers, hidden, heads, head_dim: config.head_dim }.query_scalar();
    if ((scalar as f64).powf(-0.5) - config.attention_scale).abs() > 1e-9 {
        let own = config.attention_scale.powi(-2);
        return Err(format!("`query_pre_attn_scalar`: llama.cpp expects {scalar} for a Gemma 3 of this size, got {own:.0}"));
    }
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for Gemma 3".to_owned());
    }
    let Some(window) = config.sliding_window.filter(|_| (0..layers).any(|layer| config.layer(layer).is_sliding)) else {
        return Ok(());
    };
    let first_full = (0..layers).find(|layer| !config.layer(*layer).is_sliding);
    let period = first_full.map_or(layers + 1, |layer| layer + 1);
    if (0..layers).any(|layer| config.layer(layer).is_sliding == (layer + 1).is_multiple_of(period)) {
        return Err("`layer_types`: llama.cpp expects every n-th layer to be full and the others to slide".to_owned());
    }
    let sliding = &config.rotary[1];
    if sliding.scaling.is_some() {
        return Err("llama.cpp does not support rotary scaling of sliding layers".to_owned());
    }
    metadata.insert("gemma3.attention.sliding_window", GgufValue::Unsigned(window as u64));
    // Older versions of llama.cpp assume the defaults and don't read these keys.
    if period != PERIOD {
        metadata.insert("gemma3.attention.sliding_window_pattern", GgufValue::Unsigned(period as u64));
    }
    if (sliding.theta - SLIDING_THETA).abs() > 0.0 {
        metadata.insert("gemma3.rope.freq_base_swa", GgufValue::Float(sliding.theta));
    }
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    let layers = size("num_hidden_layers");
    let (hidden, heads) = (size("hidden_size"), size("num_attention_heads"));
    let scalar = ScoreSizes { layers, hidden, heads, head_dim: size("head_dim") }.query_scalar();
    let window = metadata.optional_number("gemma3.attention.sliding_window")?.filter(|window| *window > 0);
    // To llama.cpp, 0 means that all layers slide.
    let period = match metadata.optional_number("gemma3.attention.sliding_window_pattern")? {
        Some(0) => layers + 1,
        found => found.unwrap_or(PERIOD),
    };
    config.remove("hidden_act");
    config.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
    config.insert("query_pre_attn_scalar".to_owned(), json!(scalar));
    config.insert("sliding_window".to_owned(), json!(window.unwrap_or(4096)));
    config.insert("sliding_window_pattern".to_owned(), json!(if window.is_some() { period } else { 1 }));
    let theta = metadata.optional_float("gemma3.rope.freq_base_swa")?.unwrap_or(SLIDING_THETA);
    config.insert("rope_local_base_freq".to_owned(), json!(theta));
    Ok(())
}

/// mlx-lm knows only the keys of transformers 4.
fn adapt(config: &ModelConfig, json: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let layers = 0..config.num_hidden_layers;
    let is_full = |layer: &usize| config.window(*layer).is_none();
    let pattern = layers.clone().find(is_full).map_or(config.num_hidden_layers + 1, |first| first + 1);
    let pattern =
        Some(pattern).filter(|pattern| layers.clone().all(|layer| is_full(&layer) == (layer % pattern == pattern - 1)));
    let sliding = json.get("rope_parameters").and_then(|parameters| parameters.get("sliding_attention"));
    let theta = sliding.and_then(|sliding| sliding.get("rope_theta")).cloned();
    insert_absent(json, "rope_local_base_freq", theta);
    insert_absent(json, "sliding_window_pattern", pattern.map(Value::from));
    if pattern.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec!["mlx-lm reads windows as one in every so many layers, and those of this model have another order".to_owned()])
}
