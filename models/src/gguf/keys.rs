//! The sizes that files of every architecture have, under llama.cpp's names and those of `config.json`.
//!
//! Source: `gguf-py/gguf/constants.py` of llama.cpp.

use crate::config::ModelConfig;

/// A number of the header.
pub struct SizeKey {
    /// Without the architecture before it.
    pub gguf: &'static str,
    /// In `config.json`.
    pub config: &'static str,
    /// What a model has there.
    pub of: fn(&ModelConfig) -> usize,
    /// Another key of this table, whose number counts where this one is missing.
    pub fallback: Option<&'static str>,
}

/// The key whose number is the context length.
pub const CONTEXT_LENGTH: &str = "context_length";
/// The width of a head.
pub const KEY_LENGTH: &str = "attention.key_length";
/// Added to the mean square in norms.
pub const NORM_EPSILON: &str = "attention.layer_norm_rms_epsilon";
/// Base of the rotary angles.
pub const ROPE_FREQ_BASE: &str = "rope.freq_base";
/// How many elements of a head are rotated.
pub const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
/// How far positions are divided, in old files.
pub const ROPE_SCALE_LINEAR: &str = "rope.scale_linear";
/// How the rotary angles are stretched.
pub const ROPE_SCALING_TYPE: &str = "rope.scaling.type";
/// How far.
pub const ROPE_SCALING_FACTOR: &str = "rope.scaling.factor";
/// The tensor of divisors of the rotary frequencies.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// The numbers, those first that others fall back on.
pub const SIZES: &[SizeKey] = &[
    size(CONTEXT_LENGTH, "max_position_embeddings", |config| config.max_position_embeddings, None),
    size("embedding_length", "hidden_size", |config| config.hidden_size, None),
    size("block_count", "num_hidden_layers", |config| config.num_hidden_layers, None),
    size("feed_forward_length", "intermediate_size", |config| config.intermediate_size, None),
    size("attention.head_count", "num_attention_heads", |config| config.num_attention_heads, None),
    size(
        "attention.head_count_kv",
        "num_key_value_heads",
        |config| config.num_key_value_heads,
        Some("attention.head_count"),
    ),
];

const fn size(
    gguf: &'static str,
    config: &'static str,
    of: fn(&ModelConfig) -> usize,
    fallback: Option<&'static str>,
) -> SizeKey {
    SizeKey { gguf, config, of, fallback }
}
