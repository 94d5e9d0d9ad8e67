//! The hyper-parameters of a model, under the names of `config.json`.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};

/// What `config.json` says of a decoder of the Llama family.
///
/// Source: `LlamaConfig` and `MistralConfig` of transformers 5.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Family of the checkpoint.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// How the rotary angles are stretched beyond the context the model grew up with.
    pub rope_scaling: Option<RopeScaling>,
    /// Context length.
    pub max_position_embeddings: usize,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Attention projections have biases.
    pub attention_bias: bool,
    /// Feed-forward projections have biases.
    pub mlp_bias: bool,
    /// A token sees this many tokens, itself included.
    pub sliding_window: Option<usize>,
    /// Begins a text.
    pub bos_token_id: Option<u32>,
    /// Any of these ends a text.
    pub eos_token_id: Vec<u32>,
    /// Fills short rows.
    pub pad_token_id: Option<u32>,
}

/// Stretched rotary angles.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_max_position_embeddings: usize,
    },
    /// The divisor of each frequency, as GGUF files carry it (`rope_freqs.weight`).
    Factors {
        /// One a pair of a head's elements.
        factors: Vec<f64>,
    },
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    bos_token_id: Option<OneOrMany>,
    eos_token_id: Option<OneOrMany>,
    pad_token_id: Option<i64>,
}

fn default_eps() -> f64 {
    1e-6
}

fn default_positions() -> usize {
    2048
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl ModelConfig {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that is missing, of the wrong type, or contradicts another.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let raw: RawConfig = serde::Deserialize::deserialize(value)
            .map_err(|error: serde_json::Error| ModelError::Config { reason: error.to_string() })?;
        // transformers 5 moved theta and scaling into `rope_parameters`.
        let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).filter(|value| !value.is_null());
        let rope_theta = rope.and_then(|rope| rope.get("rope_theta")).and_then(serde_json::Value::as_f64);
        let positive = |name: &str, value: usize| {
            if value == 0 {
                return Err(ModelError::Config { reason: format!("`{name}` is 0") });
            }
            Ok(value)
        };
        let heads = positive("num_attention_heads", raw.num_attention_heads)?;
        let key_value_heads = positive("num_key_value_heads", raw.num_key_value_heads.unwrap_or(heads))?;
        let head_dim = positive("head_dim", raw.head_dim.unwrap_or(raw.hidden_size / heads))?;
        let config = Self {
            hidden_size: positive("hidden_size", raw.hidden_size)?,
            intermediate_size: positive("intermediate_size", raw.intermediate_size)?,
            num_hidden_layers: positive("num_hidden_layers", raw.num_hidden_layers)?,
            vocab_size: positive("vocab_size", raw.vocab_size)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta: raw.rope_theta.or(rope_theta).unwrap_or(10_000.0),
            rope_scaling: rope.map(parse_rope).transpose()?.flatten(),
            max_position_embeddings: raw.max_position_embeddings,
            tie_word_embeddings: raw.tie_word_embeddings,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            // Llama checkpoints may carry the key; only Mistral's attention has a window.
            sliding_window: raw.sliding_window.filter(|_| raw.model_type == "mistral"),
            bos_token_id: raw.bos_token_id.and_then(|ids| ids.into_vec().first().copied()),
            eos_token_id: raw.eos_token_id.map(OneOrMany::into_vec).unwrap_or_default(),
            pad_token_id: raw.pad_token_id.and_then(|id| u32::try_from(id).ok()),
            model_type: raw.model_type,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let reason = if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            format!(
                "{} query heads are no multiple of {} key-value heads",
                self.num_attention_heads, self.num_key_value_heads
            )
        } else if !self.head_dim.is_multiple_of(2) {
            format!("`head_dim` {} is odd, so its elements can't be turned in pairs", self.head_dim)
        } else if self.rope_theta <= 0.0 || self.rms_norm_eps < 0.0 {
            format!("`rope_theta` {} and `rms_norm_eps` {} must be positive", self.rope_theta, self.rms_norm_eps)
        } else if self.head_dim > 1024 || self.hidden_size > 1 << 20 || self.vocab_size > 1 << 24 {
            format!(
                "sizes beyond reason: head_dim {}, hidden_size {}, vocab_size {}",
                self.head_dim, self.hidden_size, self.vocab_size
            )
        } else {
            return Ok(());
        };
        Err(ModelError::Config { reason })
    }

    /// Number of weights of the model.
    pub fn parameter_count(&self) -> usize {
        let attention = self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads) * 2;
        let mlp = 3 * self.hidden_size * self.intermediate_size;
        let head = if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers * (attention + mlp + 2 * self.hidden_size)
            + self.hidden_size
            + head * self.vocab_size * self.hidden_size
    }
}

fn parse_rope(value: &serde_json::Value) -> Result<Option<RopeScaling>> {
    let kind = value.get("rope_type").or_else(|| value.get("type")).and_then(serde_json::Value::as_str);
    let number = |key: &str| {
        value.get(key).and_then(serde_json::Value::as_f64).filter(|number| *number > 0.0).ok_or_else(|| ModelError::Config {
            reason: format!("`rope_scaling.{key}` is missing or not a positive number"),
        })
    };
    match kind {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: number("original_max_position_embeddings")? as usize,
        })),
        // What GGUF's `rope_freqs` is in transformers' terms: one list for every length, and no factor on the scores.
        Some("longrope") => {
            let list = |key: &str| -> Option<Vec<f64>> {
                value.get(key)?.as_array()?.iter().map(serde_json::Value::as_f64).collect()
            };
            let attention = value.get("attention_factor").and_then(serde_json::Value::as_f64);
            match (list("short_factor"), list("long_factor")) {
                (Some(short), Some(long)) if short == long && attention == Some(1.0) => {
                    Ok(Some(RopeScaling::Factors { factors: short }))
                }
                _ => Err(ModelError::Config {
                    reason: "`longrope` with factors that depend on the length is not supported".into(),
                }),
            }
        }
        Some(other) => Err(ModelError::Config { reason: format!("rotary scaling `{other}` is not supported") }),
    }
}
