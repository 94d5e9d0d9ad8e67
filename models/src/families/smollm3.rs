//! SmolLM3: a Llama in which every fourth layer has no rotation.
//!
//! Source: `configuration_smollm3.py` and `modeling_smollm3.py` of transformers 5; `conversion/llama.py` and
//! `src/models/smollm3.cpp` of llama.cpp; Bakouch et al. 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation,
};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "smollm3", class: "SmolLM3ForCausalLM" }],
    configure,
    reads: &["no_rope_layers"],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture {
        name: "smollm3",
        reads: &[],
        has_windows: false,
        has_rope_freqs: false,
        write,
        read: |_, _| Ok(()),
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

/// Every fourth layer has no rotation, unless the file says otherwise; llama.cpp knows no other interval.
const INTERVAL: usize = 4;

/// `SmolLM3Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct SmolLm3Config {
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
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    /// 0 for a layer without rotation.
    no_rope_layers: Option<Vec<i64>>,
    no_rope_layer_interval: usize,
    layer_types: Option<Vec<String>>,
}

impl Default for SmolLm3Config {
    fn default() -> Self {
        Self {
            vocab_size: 128_256,
            hidden_size: 2048,
            intermediate_size: 11_008,
            num_hidden_layers: 36,
            num_attention_heads: 16,
            num_key_value_heads: Some(4),
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            use_sliding_window: false,
            sliding_window: None,
            no_rope_layers: None,
            no_rope_layer_interval: INTERVAL,
            layer_types: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: SmolLm3Config = parse(json)?;
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
    let tokens = TokenIds { bos: Some(128_000), eos: vec![128_001], pad: Some(128_004) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, "smollm3".to_owned(), sizes, tokens)?;
    Ok(ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases {
            query_key_value: config.attention_bias,
            attention_output: config.attention_bias,
            mlp: config.mlp_bias,
        },
        sliding_window: config.sliding_window.filter(|_| config.use_sliding_window),
        layers: layers(&config)?,
        rotary: vec![RotaryConfig::read(json, 2_000_000.0, plain.max_position_embeddings)?],
        ..plain
    })
}

/// Which layers rotate, and which slide: unless the file says otherwise, those without rotation, if there is a window.
fn layers(config: &SmolLm3Config) -> Result<Vec<LayerConfig>> {
    let refuse = |reason: String| Err(ModelError::Config { reason });
    let (count, interval) = (config.num_hidden_layers, config.no_rope_layer_interval);
    if let Some(listed) = config.no_rope_layers.as_ref().filter(|listed| listed.len() < count) {
        return refuse(format!("`no_rope_layers`: expected {count} entries, one per layer, got {}", listed.len()));
    }
    if config.no_rope_layers.is_none() && interval == 0 {
        return refuse("`no_rope_layer_interval`: expected at least 1, got 0".to_owned());
    }
    let rotates = |layer: usize| match &config.no_rope_layers {
        Some(listed) => listed[layer] != 0,
        None => !(layer + 1).is_multiple_of(interval),
    };
    let has_window = config.use_sliding_window && config.sliding_window.is_some();
    let mut layers = LayerConfig::list(config.layer_types.as_deref(), count, |layer| has_window && !rotates(layer))?;
    if !config.use_sliding_window && layers.iter().any(|layer| layer.is_sliding) {
        return refuse(
            "`use_sliding_window`: expected true, because `layer_types` has sliding layers, got false".to_owned(),
        );
    }
    for (index, layer) in layers.iter_mut().enumerate() {
        layer.rotary = rotates(index).then_some(0);
    }
    Ok(layers)
}

/// llama.cpp's SmolLM3 has no biases, and always the same layers without rotation.
fn write(config: &ModelConfig, _: &mut Metadata) -> std::result::Result<(), String> {
    if config.biases.attention_output {
        return Err("llama.cpp does not support `attention_bias` for SmolLM3".to_owned());
    }
    if config.biases.mlp {
        return Err("llama.cpp does not support `mlp_bias` for SmolLM3".to_owned());
    }
    let rotates = |layer: usize| !(layer + 1).is_multiple_of(INTERVAL);
    if let Some(layer) = (0..config.num_hidden_layers).find(|layer| config.layer(*layer).rotary.is_some() != rotates(*layer))
    {
        return Err(format!(
            "`no_rope_layers`: llama.cpp expects that every fourth layer of SmolLM3, and no other, has no rotation, got {} \
             for layer {layer}",
            i32::from(!rotates(layer))
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rotating(json: &Value) -> Vec<bool> {
        let config = configure(json).unwrap();
        (0..config.num_hidden_layers).map(|layer| config.layer(layer).rotary.is_some()).collect()
    }

    #[test]
    fn layers_without_rotation_are_those_of_the_list_or_of_the_interval() {
        assert_eq!(rotating(&json!({ "num_hidden_layers": 5 })), [true, true, true, false, true]);
        let other = json!({ "num_hidden_layers": 4, "no_rope_layer_interval": 2 });
        assert_eq!(rotating(&other), [true, false, true, false]);
        // The list takes precedence, and may be longer than needed.
        let listed = json!({ "num_hidden_layers": 2, "no_rope_layer_interval": 2, "no_rope_layers": [0, 1, 1] });
        assert_eq!(rotating(&listed), [false, true]);
        for (key, value) in [("no_rope_layers", json!([0])), ("no_rope_layer_interval", json!(0))] {
            let error = configure(&json!({ "num_hidden_layers": 2, key: value })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`: expected")), "{error}");
        }
    }

    #[test]
    fn layers_without_rotation_slide_if_windows_are_used() {
        let windows = |more: Value| {
            let mut json = json!({ "num_hidden_layers": 4, "sliding_window": 8 });
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            configure(&json).map(|config| (0..4).map(|layer| config.window(layer)).collect::<Vec<_>>())
        };
        assert_eq!(windows(json!({})).unwrap(), [None; 4]);
        assert_eq!(windows(json!({ "use_sliding_window": true })).unwrap(), [None, None, None, Some(8)]);
        let mut types =
            json!({ "layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"] });
        assert!(windows(types.clone()).unwrap_err().to_string().contains("`use_sliding_window`: expected true"));
        types["use_sliding_window"] = true.into();
        assert_eq!(windows(types).unwrap(), [Some(8), None, None, None]);
    }

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: Value| write(&configure(&json).unwrap(), &mut Metadata::default());
        assert!(written(json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0 } })).is_ok());
        for (key, value, name) in [
            ("attention_bias", json!(true), "attention_bias"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("no_rope_layer_interval", json!(3), "`no_rope_layers`"),
        ] {
            let error = written(json!({ key: value })).unwrap_err();
            assert!(error.contains(name), "{key}: {error}");
        }
    }
}
