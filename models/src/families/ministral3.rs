//! Ministral 3: a Llama with YaRN, and a factor on queries that grows with their position.
//!
//! Source: `configuration_ministral3.py` and `modeling_ministral3.py` of transformers 5; `conversion/mistral3.py` and
//! `src/models/mistral3.cpp` of llama.cpp.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, QueryScaling, RopeScaling, RotaryConfig, Sizes,
    TokenIds, parse, require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::keys;
use crate::gguf::metadata::{Metadata, shortest};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "ministral3", class: "Ministral3ForCausalLM" }],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "mistral3",
        reads: &["attention.temperature_scale", keys::ROPE_YARN_LOG_MULTIPLIER],
        has_windows: false,
        has_rope_freqs: true,
        write,
        read,
    },
    mlx: MlxModel::PLAIN,
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

/// The key of the factor on queries, among the rotary parameters.
const BETA: &str = "llama_4_scaling_beta";

/// `Ministral3Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Ministral3Config {
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
    sliding_window: Option<usize>,
}

impl Default for Ministral3Config {
    fn default() -> Self {
        Self {
            vocab_size: 131_072,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 34,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            head_dim: Some(128),
            hidden_act: None,
            max_position_embeddings: 262_144,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            sliding_window: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Ministral3Config = parse(json)?;
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
    let tokens = TokenIds { bos: Some(1), eos: vec![2], pad: Some(11) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "ministral3".to_owned(), sizes, tokens)?;
    let json = with_rotary_parameters(json);
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        query_scaling: Some(query_scaling(&json)?),
        sliding_window: config.sliding_window,
        layers: vec![LayerConfig { is_sliding: config.sliding_window.is_some(), rotary: Some(0) }],
        rotary: vec![RotaryConfig::read(&json, 10_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// The rotary parameters of a file: `rope_scaling`, or else `rope_parameters`.
fn rotary_parameters(json: &Value) -> Option<&Map<String, Value>> {
    let object = |key: &str| json.get(key).and_then(Value::as_object).filter(|parameters| !parameters.is_empty());
    object("rope_scaling").or_else(|| object("rope_parameters"))
}

/// The file, with the defaults of the class if it has no rotary parameters.
fn with_rotary_parameters(json: &Value) -> Value {
    let mut json = json.clone();
    if rotary_parameters(&json).is_none()
        && let Some(object) = json.as_object_mut()
    {
        let parameters = json!({
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, BETA: 0.1,
        });
        object.insert("rope_parameters".to_owned(), parameters);
    }
    json
}

/// The factor on queries. Unlike the frequencies, it has no defaults.
fn query_scaling(json: &Value) -> Result<QueryScaling> {
    const LENGTH: &str = "original_max_position_embeddings";
    let inner = |key: &str| rotary_parameters(json).and_then(|parameters| parameters.get(key));
    let beside = json.get(LENGTH).filter(|length| !length.is_null());
    let refused = |key: &str, expected: &str, got: Option<&Value>| {
        let got = got.map_or_else(|| "nothing".to_owned(), Value::to_string);
        ModelError::Config { reason: format!("`rope_parameters.{key}`: expected {expected}, got {got}") }
    };
    let (beta, length) = (inner(BETA), beside.or_else(|| inner(LENGTH)));
    let positive = length.and_then(Value::as_u64).filter(|length| (1..=u64::from(u32::MAX)).contains(length));
    Ok(QueryScaling {
        beta: beta.and_then(Value::as_f64).ok_or_else(|| refused(BETA, "a number", beta))?,
        length: positive.ok_or_else(|| refused(LENGTH, "a positive number", length))? as usize,
    })
}

/// llama.cpp takes the original context of YaRN for the length of the factor on queries, and 0 for its absence.
fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    let Some(QueryScaling { beta, length }) = config.query_scaling else { return Ok(()) };
    let scaling = config.rotary.first().and_then(|rotary| rotary.scaling.as_ref());
    let original = match scaling {
        Some(RopeScaling::Yarn { original_max_position_embeddings, .. }) => *original_max_position_embeddings,
        _ => return Err("`rope_parameters`: llama.cpp expects the type `yarn` for Ministral 3".to_owned()),
    };
    if original != length {
        return Err(format!(
            "`original_max_position_embeddings`: llama.cpp expects {original} for the factor on queries, got {length}"
        ));
    }
    metadata.insert("mistral3.attention.temperature_scale", beta);
    Ok(())
}

/// Without a factor on queries, it is a Mistral with the name that the text part of a multimodal one has.
fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let beta = metadata.optional_float("mistral3.attention.temperature_scale")?.filter(|beta| *beta != 0.0);
    config.insert("sliding_window".to_owned(), Value::Null);
    let Some(beta) = beta else {
        config.insert("model_type".to_owned(), json!("mistral"));
        config.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
        return Ok(());
    };
    match config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        Some(scaling) => scaling.insert(BETA.to_owned(), json!(shortest(beta))),
        None => return Err("`mistral3.rope.scaling.type`: expected yarn, because there is a factor on queries".to_owned()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // mistralai/Ministral-3-8B-Base-2512.
    fn parameters() -> Value {
        json!({ "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, BETA: 0.1 })
    }

    #[test]
    fn rotary_parameters_have_the_defaults_of_the_class_only_as_a_whole() {
        let config = configure(&json!({})).unwrap();
        assert_eq!(config.query_scaling, Some(QueryScaling { beta: 0.1, length: 16_384 }));
        assert_eq!(config, configure(&json!({ "rope_parameters": parameters() })).unwrap());
        let Some(RopeScaling::Yarn { attention_factor, .. }) = config.rotary[0].scaling else { panic!("{config:?}") };
        assert!((attention_factor - 1.0).abs() < 1e-12);
        for key in [BETA, "original_max_position_embeddings"] {
            let mut without = parameters();
            without.as_object_mut().unwrap().remove(key);
            let error = configure(&json!({ "rope_parameters": without })).unwrap_err().to_string();
            assert!(error.contains(&format!("`rope_parameters.{key}`")), "{error}");
        }
    }

    #[test]
    fn a_gguf_file_has_yarn_and_one_length() {
        let written = |parameters: Value| {
            let mut metadata = Metadata::default();
            write(&configure(&json!({ "rope_parameters": parameters })).unwrap(), &mut metadata).map(|()| metadata)
        };
        let metadata = written(parameters()).unwrap();
        let mut linear = parameters();
        linear["rope_type"] = json!("linear");
        assert!(written(linear).unwrap_err().contains("`yarn`"));
        let read = |metadata: &Metadata, mut json: Value| read(metadata, json.as_object_mut().unwrap()).map(|()| json);
        let json = read(&metadata, json!({ "rope_scaling": { "rope_type": "yarn" } })).unwrap();
        assert_eq!(json["rope_scaling"][BETA], json!(0.1));
        assert!(read(&metadata, json!({})).unwrap_err().contains("expected yarn"));
        assert_eq!(read(&Metadata::default(), json!({})).unwrap()["model_type"], json!("mistral"));
    }
}
