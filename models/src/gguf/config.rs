//! `config.json` from the metadata of a file.

use serde_json::{Value, json};

use super::GgufFile;
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};

pub(super) fn config_json(file: &GgufFile) -> Result<Value> {
    let metadata = file.metadata();
    let missing = |key: &str| ModelError::Config { reason: format!("the GGUF lacks `{key}`") };
    let architecture = metadata.text("general.architecture").ok_or_else(|| missing("general.architecture"))?;
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |name: &str| metadata.number(&key(name)).ok_or_else(|| missing(&key(name)));
    let heads = number("attention.head_count")?;
    let hidden = number("embedding_length")?;
    let vocab = file.shape("model.embed_tokens.weight").and_then(|shape| shape.first().copied());
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length")?,
        "num_hidden_layers": number("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.number(&key("attention.head_count_kv")).unwrap_or(heads),
        "head_dim": metadata.number(&key("attention.key_length")).unwrap_or(hidden / heads.max(1)),
        "vocab_size": vocab.ok_or_else(|| missing("token_embd.weight"))?,
        "rms_norm_eps": metadata.float(&key("attention.layer_norm_rms_epsilon")).map_or(1e-5, shortest),
        "rope_theta": metadata.float(&key("rope.freq_base")).map_or(10_000.0, shortest),
        "max_position_embeddings": number("context_length")?,
        "tie_word_embeddings": file.shape("lm_head.weight").is_none(),
        "attention_bias": file.shape("model.layers.0.self_attn.q_proj.bias").is_some(),
        "mlp_bias": file.shape("model.layers.0.mlp.up_proj.bias").is_some(),
        "bos_token_id": metadata.number("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.number("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.number("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    });
    if let Some(scaling) = rope_scaling(file, architecture)? {
        config["rope_scaling"] = scaling;
    }
    Ok(config)
}

/// The decimal that was meant by a number which went through f32, such as 1e-5.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

fn rope_scaling(file: &GgufFile, architecture: &str) -> Result<Option<Value>> {
    if file.shape("rope_freqs.weight").is_some() {
        // transformers knows divisors of frequencies as `longrope`, where they may differ by length.
        let factors = file.read_f32("rope_freqs.weight")?;
        return Ok(Some(json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
            "original_max_position_embeddings": file.metadata().number(&format!("{architecture}.context_length")),
        })));
    }
    let metadata = file.metadata();
    let factor = metadata.float(&format!("{architecture}.rope.scaling.factor"));
    match metadata.text(&format!("{architecture}.rope.scaling.type")) {
        None | Some("none") => Ok(None),
        Some("linear") => Ok(Some(json!({ "rope_type": "linear", "factor": factor.unwrap_or(1.0) }))),
        Some(other) => Err(ModelError::Config { reason: format!("rotary scaling `{other}` is not supported") }),
    }
}
