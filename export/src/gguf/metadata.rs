//! The hyper-parameters as llama.cpp names them.

use burnish_models::gguf::{Metadata, Value};
use burnish_models::{Pretrained, RopeScaling};

use super::{number, set, text};

/// The architecture under which llama.cpp runs the whole family; Mistral is one of it.
pub(super) const ARCHITECTURE: &str = "llama";

pub(super) fn of_model(model: &Pretrained, file_type: u64) -> Metadata {
    let config = &model.config;
    let mut metadata = Metadata::default();
    set(&mut metadata, "general.architecture", text(ARCHITECTURE));
    set(&mut metadata, "general.type", text("model"));
    set(&mut metadata, "general.name", text(name_of(&model.source)));
    set(&mut metadata, "general.file_type", Value::Unsigned(file_type));
    set(&mut metadata, "general.quantization_version", number(2));
    let mut put = |key: &str, value: Value| set(&mut metadata, &format!("{ARCHITECTURE}.{key}"), value);
    put("vocab_size", number(config.vocab_size));
    put("context_length", number(config.max_position_embeddings));
    put("embedding_length", number(config.hidden_size));
    put("block_count", number(config.num_hidden_layers));
    put("feed_forward_length", number(config.intermediate_size));
    put("attention.head_count", number(config.num_attention_heads));
    put("attention.head_count_kv", number(config.num_key_value_heads));
    put("attention.key_length", number(config.head_dim));
    put("attention.value_length", number(config.head_dim));
    put("attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps));
    put("rope.dimension_count", number(config.head_dim));
    put("rope.freq_base", Value::Float(config.rope_theta));
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        put("rope.scaling.type", text("linear"));
        put("rope.scaling.factor", Value::Float(factor));
    }
    metadata
}

/// The last part of a path or hub id.
fn name_of(source: &str) -> String {
    let trimmed = source.trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed).trim_end_matches(".gguf").to_owned()
}
