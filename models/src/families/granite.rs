//! Dense Granite 3 models: a Llama with factors on embedding, attention scores, residual updates and logits.
//!
//! Source: `configuration_granite.py` and `modeling_granite.py` of transformers 5; `conversion/granite.py` and
//! `src/models/granite.cpp` of llama.cpp; Granite Team 2024.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::{Metadata, shortest};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "granite", class: "GraniteForCausalLM" }],
    configure,
    reads: &["attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "granite",
        reads: &["attention.scale", "embedding_scale", "logit_scale", "residual_scale"],
        has_windows: false,
        has_rope_freqs: true,
        write,
        read,
    },
    mlx: MlxModel { in_eight_bits: IN_EIGHT_BITS, ..MlxModel::PLAIN },
};

/// Of `quant_predicate` in mlx-lm.
pub(super) const IN_EIGHT_BITS: &[Role] = &[Role::AttentionOutput, Role::Down, Role::Head];

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

/// `GraniteConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct GraniteConfig {
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
    mlp_bias: bool,
}

impl Default for GraniteConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
        }
    }
}

/// The factors of all Granite models; absent ones are 1.
#[derive(Debug, Deserialize)]
pub(super) struct Factors {
    #[serde(default = "one")]
    embedding_multiplier: f64,
    #[serde(default = "one")]
    logits_scaling: f64,
    #[serde(default = "one")]
    residual_multiplier: f64,
    #[serde(default = "one")]
    attention_multiplier: f64,
}

fn one() -> f64 {
    1.0
}

impl Factors {
    /// Reads and checks the factors.
    pub(super) fn read(json: &Value) -> Result<Self> {
        let factors: Self = parse(json)?;
        // To llama.cpp, a factor of 0 is an absent one.
        for (key, factor) in [
            ("embedding_multiplier", factors.embedding_multiplier),
            ("logits_scaling", factors.logits_scaling),
            ("residual_multiplier", factors.residual_multiplier),
            ("attention_multiplier", factors.attention_multiplier),
        ] {
            if !(factor.is_finite() && factor > 0.0) {
                return Err(ModelError::Config { reason: format!("`{key}`: expected a positive number, got {factor}") });
            }
        }
        Ok(factors)
    }

    /// The configuration with these factors.
    pub(super) fn apply(self, config: ModelConfig) -> ModelConfig {
        let other_than_one = |factor: f64| Some(factor).filter(|factor| (factor - 1.0).abs() > 0.0);
        ModelConfig {
            attention_scale: self.attention_multiplier,
            embedding_scale: other_than_one(self.embedding_multiplier),
            residual_multiplier: other_than_one(self.residual_multiplier),
            logits_scaling: other_than_one(self.logits_scaling),
            ..config
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: GraniteConfig = parse(json)?;
    require_activation("hidden_act", config.hidden_act.as_deref(), Activation::Silu)?;
    let factors = Factors::read(json)?;
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
    let tokens = TokenIds { bos: Some(1), eos: vec![2], pad: None }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "granite".to_owned(), sizes, tokens)?;
    let plain = factors.apply(plain);
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases {
            query_key_value: config.attention_bias,
            attention_output: config.attention_bias,
            mlp: config.mlp_bias,
        },
        rotary: vec![RotaryConfig::read(json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

#[allow(clippy::unnecessary_wraps, reason = "the type of every family's `write`")]
pub(super) fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    metadata.insert("granite.attention.scale", config.attention_scale);
    metadata.insert("granite.embedding_scale", config.embedding_scale.unwrap_or(1.0));
    metadata.insert("granite.residual_scale", config.residual_multiplier.unwrap_or(1.0));
    metadata.insert("granite.logit_scale", config.logits_scaling.unwrap_or(1.0));
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    if metadata.flag("granite.rope.scaling.finetuned") == Some(false) {
        return Err("`granite.rope.scaling.finetuned` is false: Granite without rotation is not supported".to_owned());
    }
    let factor = |key: &str| metadata.optional_float(key).map(|factor| factor.filter(|factor| *factor != 0.0).map(shortest));
    let logits = factor("granite.logit_scale")?.ok_or("`granite.logit_scale` is missing from the GGUF file")?;
    let head_dim = config.get("head_dim").and_then(Value::as_f64).unwrap_or(1.0);
    let attention = factor("granite.attention.scale")?.unwrap_or_else(|| head_dim.powf(-0.5));
    for (key, value) in [
        ("attention_multiplier", attention),
        ("embedding_multiplier", factor("granite.embedding_scale")?.unwrap_or(1.0)),
        ("residual_multiplier", factor("granite.residual_scale")?.unwrap_or(1.0)),
        ("logits_scaling", logits),
    ] {
        config.insert(key.to_owned(), json!(value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_factors_are_1_and_others_must_be_positive() {
        let plain = configure(&json!({})).unwrap();
        assert_eq!((plain.attention_scale, plain.embedding_scale, plain.logits_scaling), (1.0, None, None));
        // ibm-granite/granite-3.0-2b.
        let config = configure(&json!({
            "attention_multiplier": 0.015_625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8
        }))
        .unwrap();
        assert_eq!((config.attention_scale, config.embedding_scale), (1.0 / 64.0, Some(12.0)));
        assert_eq!((config.residual_multiplier, config.logits_scaling), (Some(0.22), Some(8.0)));
        for key in FAMILY.reads {
            for wrong in [0.0, -1.0] {
                let error = configure(&json!({ *key: wrong })).unwrap_err().to_string();
                assert!(error.contains(&format!("`{key}`: expected a positive number")), "{error}");
            }
        }
    }

    #[test]
    fn keys_of_a_gguf_file_have_the_defaults_of_llama_cpp() {
        let mut metadata = Metadata::default();
        let read = |metadata: &Metadata| {
            let mut config = json!({ "head_dim": 64 }).as_object().unwrap().clone();
            read(metadata, &mut config)
                .map(|()| FAMILY.reads.iter().map(|key| config[*key].as_f64().unwrap()).collect::<Vec<_>>())
        };
        assert!(read(&metadata).unwrap_err().contains("`granite.logit_scale` is missing"));
        metadata.insert("granite.logit_scale", 8.0);
        metadata.insert("granite.residual_scale", 0.0);
        assert_eq!(read(&metadata).unwrap(), [0.125, 1.0, 8.0, 1.0]);
        // Files have f32.
        metadata.insert("granite.residual_scale", f64::from(0.22_f32));
        assert_eq!(read(&metadata).unwrap(), [0.125, 1.0, 8.0, 0.22]);
        metadata.insert("granite.rope.scaling.finetuned", false);
        assert!(read(&metadata).unwrap_err().contains("without rotation"));
    }
}
