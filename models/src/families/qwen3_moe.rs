//! Qwen3 models of experts.
//!
//! Source: `configuration_qwen3_moe.py` and `modeling_qwen3_moe.py` of transformers 5; `conversion/qwen.py` and
//! `src/models/qwen3moe.cpp` of llama.cpp; Yang et al. 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, ExpertsConfig, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Shares,
    Sizes, Stacking, TokenIds, parse, require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "qwen3_moe", class: "Qwen3MoeForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "qwen3moe",
        reads: &["expert_count"],
        has_windows: false,
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
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::Router, "mlp.gate", "ffn_gate_inp"),
    Part::new(Role::ExpertGate, "mlp.experts.{}.gate_proj", "ffn_gate_exps")
        .held_by("gate_up_proj")
        .in_mlx("mlp.switch_mlp.gate_proj"),
    Part::new(Role::ExpertUp, "mlp.experts.{}.up_proj", "ffn_up_exps")
        .held_by("gate_up_proj")
        .in_mlx("mlp.switch_mlp.up_proj"),
    Part::new(Role::ExpertDown, "mlp.experts.{}.down_proj", "ffn_down_exps")
        .held_by("down_proj")
        .in_mlx("mlp.switch_mlp.down_proj"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `Qwen3MoeConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Qwen3MoeConfig {
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
    attention_bias: bool,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    decoder_sparse_step: usize,
    moe_intermediate_size: usize,
    num_experts_per_tok: usize,
    num_experts: Option<usize>,
    /// Another name of `num_experts`.
    num_local_experts: Option<usize>,
    norm_topk_prob: bool,
    output_router_logits: bool,
    mlp_only_layers: Option<Vec<usize>>,
}

impl Default for Qwen3MoeConfig {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            num_key_value_heads: 4,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            use_sliding_window: false,
            sliding_window: Some(4096),
            decoder_sparse_step: 1,
            moe_intermediate_size: 768,
            num_experts_per_tok: 8,
            num_experts: None,
            num_local_experts: None,
            norm_topk_prob: false,
            output_router_logits: false,
            mlp_only_layers: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Qwen3MoeConfig = parse(json)?;
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
    let biased = config.attention_bias;
    let window = config.sliding_window.filter(|_| config.use_sliding_window);
    let plain = ModelConfig::plain(&FAMILY, "qwen3_moe".to_owned(), sizes, TokenIds::read(json)?)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        experts: experts(&config)?,
        sliding_window: window,
        layers: vec![LayerConfig { is_sliding: window.is_some(), rotary: Some(0) }],
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// The experts; `None` if no layer has any.
fn experts(config: &Qwen3MoeConfig) -> Result<Option<ExpertsConfig>> {
    let refuse = |reason: &str| Err(ModelError::Config { reason: reason.to_owned() });
    if config.output_router_logits {
        return refuse("`output_router_logits` is true, but the auxiliary loss of routers is not supported");
    }
    if config.decoder_sparse_step == 0 {
        return refuse("`decoder_sparse_step`: expected at least 1, got 0");
    }
    let count = match (config.num_experts, config.num_local_experts) {
        (Some(one), Some(other)) if one != other => return refuse("`num_experts` and `num_local_experts` differ"),
        (one, other) => one.or(other).unwrap_or(128),
    };
    let dense = config.mlp_only_layers.as_deref().unwrap_or_default();
    let is_dense =
        |layer: &usize| dense.contains(layer) || count == 0 || !(layer + 1).is_multiple_of(config.decoder_sparse_step);
    // `ModelConfig::check` refuses more layers than this.
    let layers = config.num_hidden_layers.min(1 << 12);
    let dense_layers: Vec<usize> = (0..layers).filter(is_dense).collect();
    Ok((dense_layers.len() < layers).then_some(ExpertsConfig {
        count,
        per_token: config.num_experts_per_tok,
        intermediate_size: config.moe_intermediate_size,
        shares: if config.norm_topk_prob { Shares::Normalised } else { Shares::OfAll },
        biased: false,
        gate: None,
        stacking: Stacking::Rows,
        dense_layers,
    }))
}

/// llama.cpp reads no biases, expects experts in every layer, and always divides their shares by the sum.
fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let Some(experts) = config.experts.as_ref().filter(|experts| experts.dense_layers.is_empty()) else {
        return Err("llama.cpp does not support layers without experts (`mlp_only_layers`, `decoder_sparse_step`) for \
                    Qwen3-MoE"
            .to_owned());
    };
    if experts.shares != Shares::Normalised {
        return Err("llama.cpp computes `norm_topk_prob` as true, and it is false".to_owned());
    }
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for Qwen3-MoE".to_owned());
    }
    metadata.insert("qwen3moe.expert_count", experts.count);
    metadata.insert("qwen3moe.expert_used_count", experts.per_token);
    metadata.insert("qwen3moe.expert_feed_forward_length", experts.intermediate_size);
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let number = |key: &str| metadata.optional_number(&format!("qwen3moe.{key}"));
    let required = |key: &str| number(key)?.ok_or_else(|| format!("`qwen3moe.{key}` is missing from the GGUF file"));
    let (count, used) = (required("expert_count")?, required("expert_used_count")?);
    let inner = config.get("intermediate_size").and_then(Value::as_u64).unwrap_or_default() as usize;
    let length = number("expert_feed_forward_length")?.unwrap_or(inner / used.max(1));
    for (key, value) in [
        ("num_experts", json!(count)),
        ("num_experts_per_tok", json!(used)),
        ("moe_intermediate_size", json!(length)),
        ("norm_topk_prob", json!(true)),
        ("decoder_sparse_step", json!(1)),
        ("mlp_only_layers", json!([])),
    ] {
        config.insert(key.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense_layers(more: &Value) -> Result<Option<Vec<usize>>> {
        let mut json = json!({ "num_hidden_layers": 4, "num_experts": 8, "num_experts_per_tok": 2 });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Ok(configure(&json)?.experts.map(|experts| experts.dense_layers))
    }

    #[test]
    fn some_layers_may_have_no_experts() {
        assert_eq!(dense_layers(&json!({})).unwrap(), Some(vec![]));
        assert_eq!(dense_layers(&json!({ "decoder_sparse_step": 2 })).unwrap(), Some(vec![0, 2]));
        assert_eq!(dense_layers(&json!({ "mlp_only_layers": [3] })).unwrap(), Some(vec![3]));
        assert_eq!(dense_layers(&json!({ "num_experts": 0 })).unwrap(), None);
        assert_eq!(dense_layers(&json!({ "num_experts": null, "num_local_experts": 0 })).unwrap(), None);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value, word) in [
            ("output_router_logits", json!(true), "`output_router_logits` is true"),
            ("decoder_sparse_step", json!(0), "`decoder_sparse_step`"),
            ("num_local_experts", json!(9), "differ"),
        ] {
            let error = dense_layers(&json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn settings_that_llama_cpp_computes_differently_are_refused() {
        let refusal = |more: &Value| {
            let mut json = json!({ "norm_topk_prob": true });
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            write(&configure(&json).unwrap(), &mut Metadata::default())
        };
        refusal(&json!({})).unwrap();
        assert!(refusal(&json!({ "norm_topk_prob": false })).unwrap_err().contains("`norm_topk_prob`"));
        assert!(refusal(&json!({ "mlp_only_layers": [1] })).unwrap_err().contains("`mlp_only_layers`"));
        assert!(refusal(&json!({ "attention_bias": true })).unwrap_err().contains("`attention_bias`"));
    }
}
