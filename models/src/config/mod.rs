//! What a decoder computes, as its family reads it from `config.json`.

mod json;
mod layers;
mod rotary;
mod text_part;

use burnish_kernels::glu::Activation;
use serde_json::Value;

pub use json::TokenIds;
pub(crate) use json::{parse, refuse_unread, require_activation};
pub use layers::{Biases, LayerConfig};
pub use rotary::{RopeScaling, RotaryConfig};
pub use text_part::text_part;

use crate::error::{ModelError, Result};
use crate::families;
use crate::family::Family;
use crate::part::declared_tensors;

/// A dense decoder: embedding, blocks of attention and gated feed-forward, norm, head.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// What reads and writes its files.
    pub family: &'static Family,
    /// As in `config.json`.
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
    /// Context length.
    pub max_position_embeddings: usize,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// What the gate of the feed-forward goes through.
    pub activation: Activation,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Factor on the scores of attention.
    pub attention_scale: f64,
    /// Scores of attention become `cap · tanh(score / cap)`.
    pub attention_softcap: Option<f64>,
    /// Factor on the embedding, rounded to the dtype that the model computes in.
    pub embedding_scale: Option<f64>,
    /// Factor on what a block adds to the residual stream.
    pub residual_multiplier: Option<f64>,
    /// In sliding layers, a token sees this many tokens, itself included.
    pub sliding_window: Option<usize>,
    /// The layers, in order; where there are fewer than blocks, they repeat.
    pub layers: Vec<LayerConfig>,
    /// The rotary angles that layers choose from.
    pub rotary: Vec<RotaryConfig>,
    /// Begins a text.
    pub bos_token_id: Option<u32>,
    /// Any of these ends a text.
    pub eos_token_id: Vec<u32>,
    /// Fills short rows.
    pub pad_token_id: Option<u32>,
}

/// The sizes that every configuration has.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
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
    /// Width of a head; `hidden_size / num_attention_heads` when absent.
    pub head_dim: Option<usize>,
    /// Context length.
    pub max_position_embeddings: usize,
}

impl ModelConfig {
    /// Reads a parsed `config.json`; of a multimodal model, its text part.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`], or [`ModelError::Config`], which names the key that is missing, of the wrong type, not
    /// computed here, or contradicts another.
    pub fn from_json(value: &Value) -> Result<Self> {
        let value = &*text_part(value);
        let model_type = value
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| ModelError::Config { reason: "missing field `model_type`".to_owned() })?;
        let family = families::by_model_type(model_type)?;
        refuse_unread(value)?;
        let config = (family.configure)(value)?;
        config.check()?;
        Ok(config)
    }

    /// What most families share: full attention scaled by `1 / √head_dim`, no biases, no factors.
    ///
    /// # Errors
    /// [`ModelError::Config`] names a size that is 0.
    pub fn plain(family: &'static Family, model_type: String, sizes: Sizes, tokens: TokenIds) -> Result<Self> {
        let positive = |name: &str, value: usize| {
            if value == 0 {
                return Err(ModelError::Config { reason: format!("`{name}` is 0") });
            }
            Ok(value)
        };
        let heads = positive("num_attention_heads", sizes.num_attention_heads)?;
        let head_dim = positive("head_dim", sizes.head_dim.unwrap_or(sizes.hidden_size / heads))?;
        Ok(Self {
            family,
            model_type,
            hidden_size: positive("hidden_size", sizes.hidden_size)?,
            intermediate_size: positive("intermediate_size", sizes.intermediate_size)?,
            num_hidden_layers: positive("num_hidden_layers", sizes.num_hidden_layers)?,
            num_attention_heads: heads,
            num_key_value_heads: positive("num_key_value_heads", sizes.num_key_value_heads)?,
            head_dim,
            vocab_size: positive("vocab_size", sizes.vocab_size)?,
            max_position_embeddings: sizes.max_position_embeddings,
            tie_word_embeddings: false,
            rms_norm_eps: 1e-6,
            activation: Activation::Silu,
            biases: Biases::default(),
            attention_scale: (head_dim as f64).powf(-0.5),
            attention_softcap: None,
            embedding_scale: None,
            residual_multiplier: None,
            sliding_window: None,
            layers: vec![LayerConfig { is_sliding: false, rotary: Some(0) }],
            rotary: vec![RotaryConfig { theta: 10_000.0, scaling: None }],
            bos_token_id: tokens.bos,
            eos_token_id: tokens.eos,
            // Some files name a token that the embedding has no row for.
            pad_token_id: tokens.pad.filter(|id| (*id as usize) < sizes.vocab_size),
        })
    }

    /// The layer of that index.
    pub fn layer(&self, index: usize) -> LayerConfig {
        self.layers[index % self.layers.len()]
    }

    /// How many tokens a token of that layer sees, itself included; all of them when absent.
    pub fn window(&self, index: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.layer(index).is_sliding)
    }

    fn check(&self) -> Result<()> {
        let reason = if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            format!(
                "{} query heads are no multiple of {} key-value heads",
                self.num_attention_heads, self.num_key_value_heads
            )
        } else if !self.head_dim.is_multiple_of(2) {
            format!("`head_dim` {} is odd, so its elements can't be rotated in pairs", self.head_dim)
        } else if self.rms_norm_eps < 0.0 || !self.attention_scale.is_finite() {
            format!(
                "`rms_norm_eps` {} and the scale of attention {} must be positive",
                self.rms_norm_eps, self.attention_scale
            )
        } else if let Some((name, size)) = self.beyond_reason() {
            format!("`{name}` is {size}, which is beyond reason")
        } else if self.sliding_window == Some(0) {
            "`sliding_window` is 0".to_owned()
        } else {
            return self.rotary.iter().try_for_each(|rotary| rotary.check(self.head_dim));
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
        declared_tensors(self).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }
}

#[cfg(test)]
mod tests;
