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
    hidden_act: Option<String>,
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
    One(i64),
    Many(Vec<i64>),
}

impl OneOrMany {
    /// The ids; some files say -1 for none.
    fn into_vec(self) -> Vec<u32> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
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
        if let Some(other) = raw.hidden_act.as_deref().filter(|name| !matches!(*name, "silu" | "swish")) {
            return Err(ModelError::Config { reason: format!("`hidden_act` is `{other}`; this family computes silu") });
        }
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
            // Some files name a token that the embedding has no row for.
            pad_token_id: raw
                .pad_token_id
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| (*id as usize) < raw.vocab_size),
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
        } else if let Some((name, size)) = self.beyond_reason() {
            format!("`{name}` is {size}, which is beyond reason")
        } else if let Some(RopeScaling::Factors { factors }) = &self.rope_scaling
            && factors.len() != self.head_dim / 2
        {
            format!("`rope_scaling` has {} factors for heads of {} elements: one a pair", factors.len(), self.head_dim)
        } else {
            return Ok(());
        };
        Err(ModelError::Config { reason })
    }

    /// A size that no model has: names and products of such sizes would not fit the memory.
    fn beyond_reason(&self) -> Option<(&'static str, usize)> {
        let most = [
            ("head_dim", self.head_dim, 1024),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
        ];
        most.into_iter().find(|(_, size, most)| size > most).map(|(name, size, _)| (name, size))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(key: &str, value: Value) -> Result<ModelConfig> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100,
        });
        config[key] = value;
        ModelConfig::from_json(&config)
    }

    #[test]
    fn tokens_that_are_none_are_left_out() {
        assert!(read("eos_token_id", json!(-1)).unwrap().eos_token_id.is_empty());
        assert_eq!(read("eos_token_id", json!([2, -1])).unwrap().eos_token_id, [2]);
        assert_eq!(read("pad_token_id", json!(99)).unwrap().pad_token_id, Some(99));
        assert_eq!(read("pad_token_id", json!(100)).unwrap().pad_token_id, None);
    }

    #[test]
    fn what_is_not_computed_or_beyond_reason_is_refused_by_name() {
        let longrope = |count: usize| {
            let factors = vec![1.5; count];
            json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0})
        };
        assert!(read("rope_scaling", longrope(8)).is_ok() && read("hidden_act", json!("silu")).is_ok());
        for (key, value, word) in [
            ("hidden_act", json!("gelu"), "gelu"),
            ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
            ("vocab_size", json!(u64::MAX), "vocab_size"),
            ("rope_scaling", longrope(7), "7 factors"),
        ] {
            let error = read(key, value).unwrap_err().to_string();
            assert!(error.contains(word), "{key}: {error}");
        }
    }
}
