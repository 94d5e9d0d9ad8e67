//! Phi-3, Phi-3.5 and dense Phi-4 models: one projection to queries, keys and values, one to gate and up, and LongRoPE.
//!
//! Source: `configuration_phi3.py` and `modeling_phi3.py` of transformers 5; `conversion/phi.py` and `src/models/phi3.cpp` of
//! llama.cpp; Abdin et al. 2024.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation, theta_of,
};
use crate::error::{ModelError, Result};
use crate::gguf::keys;
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "phi3", class: "Phi3ForCausalLM" }],
    configure,
    reads: &["partial_rotary_factor"],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "phi3",
        reads: &[keys::ROPE_SCALING_ATTENTION],
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
    Part::new(Role::QueryKeyValue, "self_attn.qkv_proj", "attn_qkv"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::FeedForwardNorm, "post_attention_layernorm", "ffn_norm"),
    Part::new(Role::GateUp, "mlp.gate_up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// The original context length of a file that names none.
const ORIGINAL: usize = 4096;

/// `Phi3Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Phi3Config {
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
    original_max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    sliding_window: Option<usize>,
}

impl Default for Phi3Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 4096,
            original_max_position_embeddings: ORIGINAL,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            sliding_window: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Phi3Config = parse(json)?;
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
    let tokens = TokenIds { bos: Some(1), eos: vec![32_000], pad: Some(32_000) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "phi3".to_owned(), sizes, tokens)?;
    let (part, rotary) = rotary(json, &config)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        sliding_window: config.sliding_window,
        layers: vec![LayerConfig { is_sliding: config.sliding_window.is_some(), rotary: Some(0) }],
        // The part of the elements that are rotated is rounded down.
        rotary_dim: Some((plain.head_dim as f64 * part) as usize).filter(|rotated| *rotated != plain.head_dim),
        rotary: vec![rotary],
        ..plain
    })
}

/// The part of each head that is rotated, and the rotary frequencies.
fn rotary(json: &Value, config: &Phi3Config) -> Result<(f64, RotaryConfig)> {
    let object = |key: &str| json.get(key).and_then(Value::as_object).filter(|parameters| !parameters.is_empty());
    let mut parameters = object("rope_scaling").or_else(|| object("rope_parameters")).cloned().unwrap_or_default();
    let part = parameters.remove("partial_rotary_factor");
    let part = part.as_ref().or_else(|| json.get("partial_rotary_factor")).unwrap_or(&Value::Null);
    let part = match part.as_f64() {
        Some(part) if part > 0.0 && part <= 1.0 => part,
        None if part.is_null() => 1.0,
        _ => {
            let reason = format!("`partial_rotary_factor`: expected a number above 0, and at most 1, got {part}");
            return Err(ModelError::Config { reason });
        }
    };
    let kind = ["rope_type", "type"].into_iter().find_map(|key| parameters.get(key).filter(|kind| !kind.is_null()));
    // Files of the first versions have other names for it.
    let kind = match kind.map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("default") => "default",
        Some("longrope" | "su" | "yarn") => "longrope",
        Some(_) => {
            let got = kind.unwrap_or(&Value::Null);
            return Err(ModelError::Config { reason: format!("`rope_scaling`: expected the type `longrope`, got {got}") });
        }
    };
    parameters.insert("rope_type".to_owned(), json!(kind));
    // It takes precedence over one among the parameters, even if the file does not have it.
    parameters.insert("original_max_position_embeddings".to_owned(), json!(config.original_max_position_embeddings));
    let theta = theta_of(json.get("rope_theta"), "rope_theta")?.unwrap_or(10_000.0);
    Ok((part, RotaryConfig::from_parameters(&parameters, theta, config.max_position_embeddings)?))
}

/// In llama.cpp's Phi-3, heads are as wide together as the stream. Its newer versions don't compute windows.
fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let (heads, width, hidden) = (config.num_attention_heads, config.head_dim, config.hidden_size);
    if heads * width != hidden {
        return Err(format!("`head_dim`: llama.cpp expects {hidden} / {heads} for Phi-3, got {width}"));
    }
    // Without the key, older versions assume a window for some sizes.
    metadata.insert("phi3.attention.sliding_window", config.sliding_window.unwrap_or(0));
    Ok(())
}

fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let window = metadata.optional_number("phi3.attention.sliding_window")?.filter(|window| *window > 0);
    config.insert("sliding_window".to_owned(), json!(window));
    let original = config.get("rope_scaling").and_then(|scaling| scaling.get("original_max_position_embeddings"));
    if let Some(original) = original.cloned() {
        config.insert("original_max_position_embeddings".to_owned(), original);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    /// microsoft/Phi-4-mini-instruct, with fewer frequencies.
    fn phi4_mini() -> Value {
        json!({ "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.75,
            "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "sliding_window": 262_144,
            "rope_scaling": { "type": "longrope", "short_factor": vec![1.0; 6], "long_factor": vec![2.0; 6] } })
    }

    #[test]
    fn a_part_of_each_head_is_rotated_by_longrope() {
        let config = configure(&phi4_mini()).unwrap();
        assert_eq!((config.head_dim, config.rotary_dim, config.window(0)), (16, Some(12), Some(262_144)));
        let scaling = RopeScaling::LongRope {
            short: vec![1.0; 6],
            long: vec![2.0; 6],
            original_max_position_embeddings: 4096,
            attention_factor: (1.0 + 32f64.ln() / 4096f64.ln()).sqrt(),
        };
        assert_eq!(config.rotary[0].scaling, Some(scaling));
        // As transformers 5 writes it, and with the name of older files.
        let mut other = phi4_mini();
        let part = other.as_object_mut().unwrap().remove("partial_rotary_factor").unwrap();
        let mut parameters = other.as_object_mut().unwrap().remove("rope_scaling").unwrap();
        parameters["partial_rotary_factor"] = part;
        parameters["rope_type"] = json!("su");
        other["rope_parameters"] = parameters;
        assert_eq!(configure(&other).unwrap(), config);
        let whole = configure(&json!({})).unwrap();
        assert_eq!((whole.rotary_dim, whole.rotary[0].scaling.as_ref(), whole.window(0)), (None, None, None));
    }

    #[test]
    fn other_scalings_and_parts_are_refused_by_name() {
        for (key, value, word) in [
            ("rope_scaling", json!({ "type": "linear", "factor": 2.0 }), "expected the type `longrope`"),
            ("rope_scaling", json!({ "type": "longrope", "short_factor": [1.0] }), "long_factor"),
            ("partial_rotary_factor", json!(1.5), "`partial_rotary_factor`"),
            ("partial_rotary_factor", json!(0), "`partial_rotary_factor`"),
        ] {
            let error = configure(&json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(word), "{key}: {error}");
        }
        let wide = configure(&json!({ "head_dim": 128 })).unwrap();
        assert!(write(&wide, &mut Metadata::default()).unwrap_err().contains("`head_dim`"));
    }

    #[test]
    fn the_window_and_the_original_length_stay_the_same_in_a_gguf_file() {
        let mut metadata = Metadata::default();
        write(&configure(&phi4_mini()).unwrap(), &mut metadata).unwrap();
        let mut json = json!({ "rope_scaling": { "original_max_position_embeddings": 512 } });
        read(&metadata, json.as_object_mut().unwrap()).unwrap();
        assert_eq!((&json["sliding_window"], &json["original_max_position_embeddings"]), (&json!(262_144), &json!(512)));
    }
}
