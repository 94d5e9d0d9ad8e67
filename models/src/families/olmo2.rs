//! OLMo 2 and 3: norms only after attention and feed-forward, and norms of queries and keys that span all heads. In OLMo 3, three of
//! four layers slide, and only the others scale their frequencies.
//!
//! Source: `configuration_olmo2.py`, `modeling_olmo2.py` and their OLMo 3 counterparts of transformers 5; `conversion/olmo.py` and
//! `src/models/olmo2.cpp` of llama.cpp; Team OLMo 2025.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{
    Biases, Family, GgufArchitecture, LayerConfig, MlxModel, ModelConfig, ModelType, RotaryConfig, Sizes, TokenIds, parse,
    require_activation, theta_of,
};
use crate::error::{ModelError, Result};
use crate::gguf::architecture::{check_head_dim, layer_types};
use crate::gguf::metadata::{Metadata, Value as GgufValue};
use crate::part::{Part, Role};

/// The entry in the registry.
pub static FAMILY: Family = Family {
    model_types: &[ModelType { name: "olmo2", class: "Olmo2ForCausalLM" }, OLMO3],
    configure,
    reads: &[],
    parts: PARTS,
    norm_offset: 0.0,
    gguf: GgufArchitecture { name: "olmo2", reads: &[], has_windows: true, has_rope_freqs: false, write, read },
    mlx: MlxModel::PLAIN,
};

const OLMO3: ModelType = ModelType { name: "olmo3", class: "Olmo3ForCausalLM" };

const PARTS: &[Part] = &[
    Part::new(Role::Embedding, "model.embed_tokens", "token_embd"),
    Part::new(Role::Query, "self_attn.q_proj", "attn_q"),
    Part::new(Role::Key, "self_attn.k_proj", "attn_k"),
    Part::new(Role::QueryNorm, "self_attn.q_norm", "attn_q_norm"),
    Part::new(Role::KeyNorm, "self_attn.k_norm", "attn_k_norm"),
    Part::new(Role::Value, "self_attn.v_proj", "attn_v"),
    Part::new(Role::AttentionOutput, "self_attn.o_proj", "attn_output"),
    Part::new(Role::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm"),
    Part::new(Role::Gate, "mlp.gate_proj", "ffn_gate"),
    Part::new(Role::Up, "mlp.up_proj", "ffn_up"),
    Part::new(Role::Down, "mlp.down_proj", "ffn_down"),
    Part::new(Role::PostFeedForwardNorm, "post_feedforward_layernorm", "post_ffw_norm"),
    Part::new(Role::FinalNorm, "model.norm", "output_norm"),
    Part::new(Role::Head, "lm_head", "output"),
];

/// `rope_theta` of OLMo 3.
const OLMO3_THETA: f64 = 500_000.0;
/// In OLMo 3, every fourth layer is full; the others slide.
const PERIOD: usize = 4;

/// `Olmo2Config` and `Olmo3Config`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Olmo2Config {
    model_type: String,
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
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
}

impl Default for Olmo2Config {
    fn default() -> Self {
        Self {
            model_type: "olmo2".to_owned(),
            vocab_size: 50_304,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: false,
            sliding_window: Some(4096),
            layer_types: None,
        }
    }
}

fn configure(json: &Value) -> Result<ModelConfig> {
    let config: Olmo2Config = parse(json)?;
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
    let tokens = TokenIds { bos: None, eos: vec![50_279], pad: Some(1) }.or_read(json)?;
    let plain = ModelConfig::plain(&FAMILY, config.model_type, sizes, tokens)?;
    let (biased, positions) = (config.attention_bias, plain.max_position_embeddings);
    let shared = ModelConfig {
        tie_word_embeddings: config.tie_word_embeddings,
        rms_norm_eps: config.rms_norm_eps,
        biases: Biases { query_key_value: biased, attention_output: biased, mlp: false },
        norms_span_heads: true,
        ..plain
    };
    if shared.model_type != OLMO3.name {
        return Ok(ModelConfig { rotary: vec![RotaryConfig::read(json, 10_000.0, positions)?], ..shared });
    }
    let mut layers = LayerConfig::list(config.layer_types.as_deref(), config.num_hidden_layers, slides)?;
    for layer in &mut layers {
        layer.rotary = Some(usize::from(layer.is_sliding));
    }
    Ok(ModelConfig { sliding_window: config.sliding_window, layers, rotary: rotary_of_olmo3(json, positions)?, ..shared })
}

/// Whether the layer of that index slides in OLMo 3, unless the file says otherwise.
fn slides(layer: usize) -> bool {
    !(layer + 1).is_multiple_of(PERIOD)
}

/// The rotary frequencies of full layers, then those of sliding ones. The keys of older files apply to full layers alone: in sliding
/// ones, transformers uses the default of its class.
fn rotary_of_olmo3(json: &Value, positions: usize) -> Result<Vec<RotaryConfig>> {
    let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let of_kinds = object(json.get("rope_parameters"));
    if let Some((key, _)) = of_kinds.iter().find(|(_, value)| !(value.is_object() || value.is_null())) {
        let reason = format!("`rope_parameters`: expected those of `full_attention` and `sliding_attention`, got `{key}`");
        return Err(ModelError::Config { reason });
    }
    let mut full = object(of_kinds.get("full_attention"));
    full.extend(object(json.get("rope_scaling")));
    let theta = theta_of(json.get("rope_theta"), "rope_theta")?.unwrap_or(OLMO3_THETA);
    let sliding = object(of_kinds.get("sliding_attention"));
    Ok(vec![
        RotaryConfig::from_parameters(&full, theta, positions)?,
        RotaryConfig::from_parameters(&sliding, OLMO3_THETA, positions)?,
    ])
}

/// llama.cpp's OLMo has a head of its own and no biases, and `head_dim` is `hidden_size / num_attention_heads`.
fn write(config: &ModelConfig, metadata: &mut Metadata) -> std::result::Result<(), String> {
    if config.tie_word_embeddings {
        return Err("`tie_word_embeddings`: llama.cpp expects that OLMo has a head of its own".to_owned());
    }
    if config.biases != Biases::default() {
        return Err("llama.cpp does not support `attention_bias` for OLMo".to_owned());
    }
    check_head_dim(config, "OLMo")?;
    let sliding: Vec<bool> = (0..config.num_hidden_layers).map(|layer| config.layer(layer).is_sliding).collect();
    let Some(window) = config.sliding_window.filter(|_| sliding.contains(&true)) else { return Ok(()) };
    let [full, of_sliding] = config.rotary.as_slice() else { return Ok(()) };
    if of_sliding.scaling.is_some() || (of_sliding.theta - full.theta).abs() > 0.0 {
        return Err(
            "`rope_parameters`: llama.cpp expects that sliding layers of OLMo 3 have the `rope_theta` of full ones, and no \
                    scaling"
                .to_owned(),
        );
    }
    metadata.insert("olmo2.attention.sliding_window", window);
    metadata.insert("olmo2.attention.sliding_window_pattern", sliding.into_iter().collect::<GgufValue>());
    Ok(())
}

/// OLMo 3 has the same architecture, but windows.
fn read(metadata: &Metadata, config: &mut Map<String, Value>) -> std::result::Result<(), String> {
    let Some(window) = metadata.optional_number("olmo2.attention.sliding_window")?.filter(|window| *window > 0) else {
        return Ok(());
    };
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
    let theta = config.get("rope_theta").cloned().unwrap_or_default();
    let kinds = layer_types(metadata, "olmo2", layers, PERIOD, theta.as_f64())?;
    config.insert("model_type".to_owned(), json!(OLMO3.name));
    config.insert("architectures".to_owned(), json!([OLMO3.class]));
    config.insert("sliding_window".to_owned(), json!(window));
    config.insert("layer_types".to_owned(), json!(kinds));
    config.insert(
        "rope_parameters".to_owned(),
        json!({
            "full_attention": { "rope_type": "default", "rope_theta": theta },
            "sliding_attention": { "rope_type": "default", "rope_theta": theta },
        }),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_llama_cpp_computes_differently_is_refused_by_name() {
        let written = |json: Value| write(&configure(&json).unwrap(), &mut Metadata::default());
        assert!(written(json!({ "head_dim": 128, "rope_scaling": { "rope_type": "linear", "factor": 2.0 } })).is_ok());
        for (key, value) in [("tie_word_embeddings", json!(true)), ("attention_bias", json!(true)), ("head_dim", json!(64))]
        {
            let error = written(json!({ key: value })).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    // allenai/Olmo-3-7B-Instruct.
    fn olmo3() -> Value {
        json!({ "model_type": "olmo3", "num_hidden_layers": 8, "sliding_window": 4096, "rope_theta": 500_000,
            "max_position_embeddings": 65_536, "rope_scaling": { "rope_type": "yarn", "factor": 8.0,
            "attention_factor": 1.207_944_154_167_983_6, "beta_fast": 32, "beta_slow": 1,
            "original_max_position_embeddings": 8192 } })
    }

    #[test]
    fn in_olmo_3_every_fourth_layer_is_full_and_only_they_scale_frequencies() {
        let config = configure(&olmo3()).unwrap();
        let windows: Vec<_> = (0..8).map(|layer| config.window(layer).is_some()).collect();
        assert_eq!(windows, [true, true, true, false, true, true, true, false]);
        let scaled = |layer: usize| config.rotary[config.layer(layer).rotary.unwrap()].scaling.is_some();
        assert!((0..8).all(|layer| scaled(layer) == config.window(layer).is_none()));
        // An OLMo 2 has no windows, whatever its file says.
        assert_eq!(configure(&json!({ "sliding_window": 8 })).unwrap().window(0), None);
        let flat = json!({ "model_type": "olmo3", "rope_parameters": { "rope_type": "default", "rope_theta": 5e5 } });
        assert!(configure(&flat).unwrap_err().to_string().contains("`rope_parameters`: expected those of"));
    }

    #[test]
    fn the_layers_of_an_olmo_3_stay_the_same_in_a_gguf_file() {
        let config = configure(&olmo3()).unwrap();
        let mut metadata = Metadata::default();
        write(&config, &mut metadata).unwrap();
        let read = |metadata: &Metadata| {
            let mut json = olmo3().as_object().unwrap().clone();
            json.retain(|key, _| !["model_type", "sliding_window"].contains(&key.as_str()));
            read(metadata, &mut json).map(|()| configure(&Value::Object(json)).unwrap())
        };
        assert_eq!(read(&metadata).unwrap(), config);
        // A number, and the default of llama.cpp.
        metadata.insert("olmo2.attention.sliding_window_pattern", 4usize);
        assert_eq!(read(&metadata).unwrap(), config);
        metadata.insert("olmo2.attention.sliding_window_pattern", 2usize);
        assert!(read(&metadata).unwrap().layers[1] != config.layers[1]);
        metadata.insert("olmo2.rope.freq_base_swa", 1e4);
        assert!(read(&metadata).unwrap_err().contains("freq_base_swa"));
        let mut other = olmo3();
        other["rope_theta"] = json!(1e4);
        let error = write(&configure(&other).unwrap(), &mut Metadata::default()).unwrap_err();
        assert!(error.contains("`rope_theta`"), "{error}");
    }
}
