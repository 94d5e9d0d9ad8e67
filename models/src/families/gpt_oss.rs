//! gpt-oss: experts with biases and a clamped gate, attention with sinks, windows in every other layer, and YaRN.
//!
//! Source: `configuration_gpt_oss.py` and `modeling_gpt_oss.py` of transformers 5; `conversion/gpt_oss.py` and
//! `src/models/openai-moe.cpp` of llama.cpp; OpenAI 2025.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, ClampedGate, ExpertsConfig, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType,
    RotaryConfig, Shares, Sizes, Stacking, TokenIds, parse, theta_of,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::{Metadata, shortest};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "gpt_oss", class: "GptOssForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "gpt-oss",
        reads: &["expert_count"],
        has_windows: true,
        has_rope_freqs: false,
        write,
        read,
    },
    mlx: MlxModel::PLAIN,
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::Sinks, "self_attn.sinks", "attn_sinks"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::Router, "mlp.router", "ffn_gate_inp"),
    Part::new(Role::ExpertGate, "mlp.experts.{}.gate_proj", "ffn_gate_exps").held_by("gate_up_proj"),
    Part::new(Role::ExpertUp, "mlp.experts.{}.up_proj", "ffn_up_exps").held_by("gate_up_proj"),
    Part::new(Role::ExpertDown, "mlp.experts.{}.down_proj", "ffn_down_exps").held_by("down_proj"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// The gate of all published models, and the only one of llama.cpp.
const GATE: ClampedGate = ClampedGate { alpha: 1.702, limit: 7.0 };
/// The base of the rotary frequencies of a file that names none.
const THETA: f64 = 150_000.0;

/// `GptOssConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct GptOssConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_local_experts: Option<usize>,
    /// Another name of `num_local_experts`.
    num_experts: Option<usize>,
    num_experts_per_tok: usize,
    swiglu_alpha: f64,
    swiglu_limit: f64,
    output_router_logits: bool,
}

impl Default for GptOssConfig {
    fn default() -> Self {
        Self {
            vocab_size: 201_088,
            hidden_size: 2880,
            intermediate_size: 2880,
            num_hidden_layers: 36,
            num_attention_heads: 64,
            num_key_value_heads: Some(8),
            head_dim: Some(64),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: true,
            sliding_window: Some(128),
            layer_types: None,
            num_local_experts: None,
            num_experts: None,
            num_experts_per_tok: 4,
            swiglu_alpha: GATE.alpha,
            swiglu_limit: GATE.limit,
            output_router_logits: false,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: GptOssConfig = parse(json)?;
    let refuse = |reason: &str| Err(ModelError::Config { reason: reason.to_owned() });
    if config.output_router_logits {
        return refuse("`output_router_logits` is true, but the auxiliary loss of routers is not supported");
    }
    let count = match (config.num_local_experts, config.num_experts) {
        (Some(one), Some(other)) if one != other => return refuse("`num_local_experts` and `num_experts` differ"),
        (one, other) => one.or(other).unwrap_or(128),
    };
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
    let biased = config.attention_bias;
    let plain = ModelConfig::plain(&FAMILY, "gpt_oss".to_owned(), sizes, TokenIds::read(json)?)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        experts: Some(ExpertsConfig {
            count,
            per_token: config.num_experts_per_tok,
            intermediate_size: config.intermediate_size,
            shares: Shares::OfChosen,
            biased: true,
            gate: Some(ClampedGate { alpha: config.swiglu_alpha, limit: config.swiglu_limit }),
            stacking: Stacking::Columns,
            dense_layers: Vec::new(),
        }),
        sliding_window: config.sliding_window,
        layers: LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, slides)?,
        rotary: vec![rotary(json, plain.max_position_embeddings)?],
        ..plain
    })
}

/// Whether the layer of that index slides, unless the file says otherwise; in llama.cpp, always.
fn slides(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

/// The rotary frequencies; those of the published models if the file has no parameters.
fn rotary(json: &Value, positions: usize) -> Result<RotaryConfig> {
    let has = |key: &str| json.get(key).is_some_and(|value| !value.is_null());
    if has("rope_parameters") || has("rope_scaling") {
        return RotaryConfig::read(json, THETA, positions);
    }
    let theta = theta_of(json.get("rope_theta"), "rope_theta")?.unwrap_or(THETA);
    let parameters = json!({
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
        "original_max_position_embeddings": 4096,
    });
    RotaryConfig::from_parameters(parameters.as_object().unwrap_or(&Map::new()), theta, positions)
}

fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let refuse = |reason: &str| Err(reason.to_owned());
    let Some(experts) = &config.experts else { return refuse("llama.cpp expects experts in every layer of gpt-oss") };
    if config.tie_word_embeddings {
        return refuse("`tie_word_embeddings`: llama.cpp expects that gpt-oss has a head of its own");
    }
    if !config.biases.attention_output {
        return refuse("`attention_bias`: llama.cpp expects that gpt-oss has biases");
    }
    if experts.gate != Some(GATE) {
        return Err(format!("`swiglu_alpha` and `swiglu_limit`: llama.cpp expects {GATE:?}, got {:?}", experts.gate));
    }
    let layers = 0..config.num_hidden_layers;
    let alternate = layers.clone().all(|layer| config.layer(layer).is_sliding == slides(layer));
    let Some(window) = config.sliding_window.filter(|_| alternate) else {
        return refuse("`layer_types`: llama.cpp expects that every other layer of gpt-oss slides, the first one too");
    };
    metadata.insert("gpt-oss.attention.sliding_window", window);
    metadata.insert("gpt-oss.expert_count", experts.count);
    metadata.insert("gpt-oss.expert_used_count", experts.per_token);
    metadata.insert("gpt-oss.expert_feed_forward_length", experts.intermediate_size);
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let number = |key: &str| metadata.optional_number(&format!("gpt-oss.{key}"));
    let required = |key: &str| number(key)?.ok_or_else(|| format!("`gpt-oss.{key}` is missing from the GGUF file"));
    let (count, used) = (required("expert_count")?, required("expert_used_count")?);
    let (length, window) = (required("expert_feed_forward_length")?, required("attention.sliding_window")?);
    if let Some(pattern) = number("attention.sliding_window_pattern")?.filter(|pattern| *pattern != 2) {
        return Err(format!("`gpt-oss.attention.sliding_window_pattern`: expected 2, got {pattern}"));
    }
    let theta = config.get("rope_theta").and_then(Value::as_f64);
    let sliding = metadata.optional_float("gpt-oss.rope.freq_base_swa")?.map(shortest);
    if let Some(sliding) = sliding.filter(|sliding| Some(*sliding) != theta) {
        return Err(format!(
            "`gpt-oss.rope.freq_base_swa` is {sliding}, other than `rope.freq_base`, which is not supported"
        ));
    }
    if config.get("rope_scaling").is_none() {
        config.insert("rope_scaling".to_owned(), json!({ "rope_type": "default" }));
    }
    for (key, value) in [
        ("num_local_experts", json!(count)),
        ("num_experts_per_tok", json!(used)),
        ("intermediate_size", json!(length)),
        ("sliding_window", json!(window)),
    ] {
        config.insert(key.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    #[test]
    fn absent_keys_are_those_of_the_published_models() {
        let config = configure(&json!({})).unwrap();
        let experts = config.experts.clone().unwrap();
        assert_eq!((experts.count, experts.per_token, experts.gate), (128, 4, Some(GATE)));
        assert_eq!((config.window(0), config.window(1), config.window(2)), (Some(128), None, Some(128)));
        let Some(RopeScaling::Yarn { factor, truncate, .. }) = config.rotary[0].scaling else { panic!("{config:?}") };
        assert_eq!((factor, truncate, config.rotary[0].theta), (32.0, false, 150_000.0));
        write(&config, &mut Metadata::default()).unwrap();
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value, word) in [
            ("output_router_logits", json!(true), "`output_router_logits` is true"),
            ("num_experts", json!(9), "differ"),
            ("layer_types", json!(["chunked_attention"]), "chunked_attention"),
        ] {
            let json = json!({ "num_local_experts": 8, "num_hidden_layers": 1, key: value });
            let error = configure(&json).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn settings_that_llama_cpp_computes_differently_are_refused() {
        for (key, value, word) in [
            ("swiglu_limit", json!(6.0), "`swiglu_limit`"),
            ("attention_bias", json!(false), "`attention_bias`"),
            ("tie_word_embeddings", json!(true), "`tie_word_embeddings`"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "`layer_types`"),
        ] {
            let config = configure(&json!({ "num_hidden_layers": 2, key: value })).unwrap();
            let error = write(&config, &mut Metadata::default()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
