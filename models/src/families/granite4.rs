//! Dense Granite 4 models: `granitemoehybrid` with attention in every layer and no experts, of which the shared feed-forward is left.
//!
//! Source: `configuration_granitemoehybrid.py` and `modeling_granitemoehybrid.py` of transformers 5; `conversion/granite.py` of
//! llama.cpp, which writes these models as `granite`.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::granite::{self, Factors};
use crate::config::{
    Biases, Family, GgufArchitecture, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::{ModelError, Result};
use crate::part::{Part, Role};

/// The entry in the registry. A GGUF file of such a model is read as one of Granite 3, which computes the same.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "granitemoehybrid", class: "GraniteMoeHybridForCausalLM" }],
    configure,
    reads: granite::FAMILY.reads,
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture { write: granite::write, ..granite::FAMILY.gguf },
    mlx: MlxModel { adapt, in_eight_bits: granite::IN_EIGHT_BITS },
};

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::InputNorm, "input_layernorm", "attn_norm"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q").interleaved(),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k").interleaved(),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::in_halves(Role::GateUp, "shared_mlp.input_linear", ["ffn_gate", "ffn_up"]),
    Part::new(Role::Down, "shared_mlp.output_linear", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `GraniteMoeHybridConfig`, without what only experts and Mamba layers read.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Granite4Config {
    vocab_size: usize,
    hidden_size: usize,
    shared_intermediate_size: usize,
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
    num_local_experts: Option<usize>,
    position_embedding_type: Option<String>,
    #[serde(alias = "layers_block_type")]
    layer_types: Option<Vec<String>>,
}

impl Default for Granite4Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            shared_intermediate_size: 1024,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            num_local_experts: Some(8),
            position_embedding_type: None,
            layer_types: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Granite4Config = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    check_dense(&config)?;
    let sizes = Sizes {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.shared_intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
    };
    let tokens = TokenIds { bos: Some(1), eos: vec![2], pad: None }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "granitemoehybrid".to_owned(), sizes, tokens)?;
    let plain = Factors::read(json)?.apply(plain);
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: config.attention_bias, attention_output: config.attention_bias, mlp: false },
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// What files say since transformers 5 is unknown to mlx-lm.
fn adapt(config: &ModelConfig, json: &mut Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    json.insert("layer_types".to_owned(), json!(vec!["attention"; config.num_hidden_layers]));
    Ok(Vec::new())
}

/// Refuses what dense models don't have.
fn check_dense(config: &Granite4Config) -> Result<()> {
    let refuse = |reason: String| Err(ModelError::Config { reason });
    match &config.layer_types {
        None => {
            return refuse(
                "`layer_types` is missing, so that every layer is one of Mamba, which is not supported".to_owned(),
            );
        }
        Some(types) if types.len() != config.num_hidden_layers => {
            let (count, got) = (config.num_hidden_layers, types.len());
            return refuse(format!("`layer_types`: expected {count} entries, one per layer, got {got}"));
        }
        Some(types) => {
            if let Some(other) = types.iter().find(|kind| !["attention", "full_attention"].contains(&kind.as_str())) {
                let mamba = if ["mamba", "linear_attention"].contains(&other.as_str()) { " (Mamba)" } else { "" };
                return refuse(format!("`layer_types` has `{other}`{mamba}, which is not supported; only `attention` is"));
            }
        }
    }
    if let Some(experts) = config.num_local_experts.filter(|experts| *experts > 0) {
        return refuse(format!("`num_local_experts` is {experts}: Granite 4 with experts is not supported"));
    }
    match config.position_embedding_type.as_deref() {
        Some("rope") => Ok(()),
        other => refuse(format!(
            "`position_embedding_type` is {}: Granite 4 without rotation is not supported",
            other.unwrap_or("null")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mamba_layers_experts_and_missing_rotation_are_refused_by_name() {
        // The keys of ibm-granite/granite-4.0-micro that decide it.
        let dense = json!({
            "num_hidden_layers": 2, "layer_types": ["attention", "attention"], "num_local_experts": 0,
            "position_embedding_type": "rope", "shared_intermediate_size": 8192, "intermediate_size": 8192,
        });
        let config = configure(&dense).unwrap();
        assert_eq!((config.intermediate_size, config.num_key_value_heads), (8192, 32));
        for (key, value, word) in [
            ("layer_types", json!(["mamba", "attention"]), "`mamba` (Mamba)"),
            ("layer_types", json!(["attention", "linear_attention"]), "`linear_attention` (Mamba)"),
            ("layer_types", json!(["attention"]), "expected 2 entries"),
            ("layer_types", json!(null), "`layer_types` is missing"),
            ("num_local_experts", json!(62), "`num_local_experts` is 62"),
            ("position_embedding_type", json!("nope"), "`position_embedding_type` is nope"),
            ("position_embedding_type", json!(null), "`position_embedding_type` is null"),
        ] {
            let mut json = dense.clone();
            json[key] = value;
            let error = configure(&json).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
