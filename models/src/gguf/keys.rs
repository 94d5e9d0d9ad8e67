//! The keys that files of every architecture have, with their names in `config.json`.
//!
//! Source: `gguf-py/gguf/constants.py` of llama.cpp.

use crate::config::ModelConfig;

/// The key of a size.
pub struct SizeKey {
    /// Its name without the architecture.
    pub gguf: &'static str,
    /// Its name in `config.json`.
    pub config: &'static str,
    /// The size of a model.
    pub of: fn(&ModelConfig) -> usize,
    /// The key of this table whose value is used if this one is missing.
    pub fallback: Option<&'static str>,
}

/// What a file holds, such as a model.
pub const TYPE: &str = "general.type";
/// The architecture of the model, or of the model that an adapter belongs to.
pub const ARCHITECTURE: &str = "general.architecture";
/// The value of [`TYPE`] in the file of an adapter.
pub const ADAPTER: &str = "adapter";
/// The value of [`TYPE`] in the file of an importance matrix.
pub const IMPORTANCE_MATRIX: &str = "imatrix";
/// The kind of an adapter.
pub const ADAPTER_TYPE: &str = "adapter.type";
/// The value of [`ADAPTER_TYPE`] for LoRA.
pub const LORA: &str = "lora";
/// The alpha of all layers of an adapter. If it is 0, their updates are not scaled.
pub const LORA_ALPHA: &str = "adapter.lora.alpha";
/// The tokens after which an adapter begins to work.
pub const ALORA_TOKENS: &str = "adapter.alora.invocation_tokens";
/// The ends of the names of the factors of an adapter.
pub const LORA_FACTORS: [&str; 2] = [".lora_a", ".lora_b"];
/// What a file has that is neither a model nor an adapter, by its [`TYPE`], and what to do with it.
pub fn other_content(kind: &str) -> Option<&'static str> {
    match kind {
        IMPORTANCE_MATRIX => Some("this is an importance matrix; pass it as --imatrix to `quantize` or `export`"),
        "mmproj" => Some("it has only what reads images or audio; open the file of the language model beside it"),
        _ => None,
    }
}
/// The context length.
pub const CONTEXT_LENGTH: &str = "context_length";
/// The number of elements of a head.
pub const KEY_LENGTH: &str = "attention.key_length";
/// The epsilon of norms.
pub const NORM_EPSILON: &str = "attention.layer_norm_rms_epsilon";
/// The base of the rotary frequencies.
pub const ROPE_FREQ_BASE: &str = "rope.freq_base";
/// The number of elements of a head that are rotated.
pub const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
/// The factor of linear scaling in old files.
pub const ROPE_SCALE_LINEAR: &str = "rope.scale_linear";
/// The kind of rotary scaling.
pub const ROPE_SCALING_TYPE: &str = "rope.scaling.type";
/// The context length before rotary scaling.
pub const ROPE_SCALING_ORIGINAL: &str = "rope.scaling.original_context_length";
/// The factor of rotary scaling.
pub const ROPE_SCALING_FACTOR: &str = "rope.scaling.factor";
/// The bounds of YaRN, and the `mscale_all_dim` that llama.cpp multiplies the logarithm of its factor by. Few architectures read them.
pub const ROPE_YARN_BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
/// See [`ROPE_YARN_BETA_FAST`].
pub const ROPE_YARN_BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";
/// See [`ROPE_YARN_BETA_FAST`].
pub const ROPE_YARN_LOG_MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
/// The factor on cosines and sines. The architectures that read it have divisors of the frequencies for short and for long texts.
pub const ROPE_SCALING_ATTENTION: &str = "rope.scaling.attn_factor";
/// The tensor with the divisors for texts that are longer than the original context.
pub const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
/// The tensor with the divisors for other texts.
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
/// The tensor with the divisors of the rotary frequencies.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// The sizes. Those that others fall back on come first.
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
