//! What a decoder computes, and the family that reads it from `config.json`.

mod experts;
mod from_json;
mod json;
mod layers;
mod rotary;
mod text_part;

use std::fmt;

use burnish_kernels::glu::Activation;
use serde_json::{Map, Value};

pub use experts::{ClampedGate, ExpertsConfig, Shares, Stacking};
pub use json::{TokenIds, ignored_dropouts, insert_absent};
pub(crate) use json::{parse, refuse_unread, require_activation};
pub use layers::{Biases, LayerConfig, QueryScaling};
pub(crate) use rotary::theta_of;
pub use rotary::{RopeScaling, RotaryConfig};
pub use text_part::text_part;

use crate::error::{ModelError, Result};
use crate::gguf::metadata::Metadata;
use crate::part::{Part, Role};

/// Everything that distinguishes the models of one family. Loading, adapters, merging and export all follow from it.
pub struct Family {
    /// The `model_type`s of its checkpoints. GGUF files are read as the first.
    pub model_types: &'static [ModelType],
    /// Reads `config.json`.
    pub configure: fn(&Value) -> Result<ModelConfig>,
    /// The keys of `config.json` that it reads, although they are refused for other families.
    pub reads: &'static [&'static str],
    /// Every kind of tensor of its models.
    pub parts: &'static [Part],
    /// Norms multiply by their weight plus this offset: 1 in Gemma, otherwise 0. GGUF files store the sum.
    pub norm_offset: f64,
    /// The architecture of its GGUF files.
    pub gguf: GgufArchitecture,
    /// Its model in mlx-lm.
    pub mlx: MlxModel,
}

/// How a model of mlx-lm differs from what its `config.json` says in transformers.
#[derive(Clone, Copy)]
pub struct MlxModel {
    /// Adds the keys that only mlx-lm reads to a `config.json`, and returns a sentence for each thing that mlx-lm computes differently.
    /// Returns an error if it can't open such a model.
    pub adapt: fn(&ModelConfig, &mut Map<String, Value>) -> std::result::Result<Vec<String>, String>,
    /// The roles of layers that have 8 bits in quantised folders, whatever the user asks for.
    pub in_eight_bits: &'static [Role],
}

impl MlxModel {
    /// One that differs in nothing.
    pub const PLAIN: Self = Self { adapt: |_, _| Ok(Vec::new()), in_eight_bits: &[] };
}

/// A `model_type` and the class of transformers that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelType {
    /// The `model_type` in `config.json`.
    pub name: &'static str,
    /// The class in `architectures`.
    pub class: &'static str,
}

/// An architecture of llama.cpp, with the keys that its GGUF files have beyond the common ones.
#[derive(Clone, Copy)]
pub struct GgufArchitecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// The keys, without the architecture's name, that it reads, although they are refused for other architectures.
    pub reads: &'static [&'static str],
    /// Whether llama.cpp computes sliding windows for it.
    pub has_windows: bool,
    /// Whether llama.cpp reads divisors of its rotary frequencies, `rope_freqs.weight`.
    pub has_rope_freqs: bool,
    /// Writes those keys. Returns an error if llama.cpp would not compute what the configuration says.
    pub write: fn(&ModelConfig, &mut Metadata) -> std::result::Result<(), String>,
    /// Reads those keys into a `config.json`. Returns an error for a key that has another type than expected.
    pub read: fn(&Metadata, &mut Map<String, Value>) -> std::result::Result<(), String>,
}

impl Family {
    /// The part with that role, if the family has one.
    pub fn part(&self, role: Role) -> Option<&'static Part> {
        self.parts.iter().find(|part| part.role == role)
    }

    /// The class of transformers that runs a model type.
    pub fn class_of(&self, model_type: &str) -> &'static str {
        let found = self.model_types.iter().find(|known| known.name == model_type);
        found.or(self.model_types.first()).map_or("", |known| known.class)
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.model_types.iter().map(|known| known.name)).finish()
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// The configuration of a decoder: embedding, blocks of attention and gated feed-forward, or experts, norm, head.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family that it belongs to.
    pub family: &'static Family,
    /// The `model_type` in `config.json`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key heads, and of value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Context length.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// The epsilon of norms, which is added to the mean square.
    pub rms_norm_eps: f64,
    /// The activation of the gate in the feed-forward.
    pub activation: Activation,
    /// The experts, if there are any.
    pub experts: Option<ExpertsConfig>,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Whether the norms of queries and keys span all heads together, instead of each head.
    pub norms_span_heads: bool,
    /// Factor on attention scores.
    pub attention_scale: f64,
    /// If present, the factor on queries that grows with their position.
    pub query_scaling: Option<QueryScaling>,
    /// If present, attention scores become `cap · tanh(score / cap)`.
    pub attention_softcap: Option<f64>,
    /// Factor on the embedding, rounded to the type that the model computes in.
    pub embedding_scale: Option<f64>,
    /// Factor on what a block adds to the residual stream.
    pub residual_multiplier: Option<f64>,
    /// Divisor of the logits.
    pub logits_scaling: Option<f64>,
    /// If present, logits become `cap · tanh(logit / cap)`.
    pub logits_softcap: Option<f64>,
    /// How many tokens a token attends to in sliding layers, itself included.
    pub sliding_window: Option<usize>,
    /// The differences between layers, in order; if there are fewer entries than blocks, they repeat.
    pub layers: Vec<LayerConfig>,
    /// How many elements of a head are rotated, the first ones; `None` means all.
    pub rotary_dim: Option<usize>,
    /// The sets of rotary frequencies; each layer uses one of them.
    pub rotary: Vec<RotaryConfig>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// The token that pads short rows.
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
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key heads, and of value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head; `hidden_size / num_attention_heads` if `None`.
    pub head_dim: Option<usize>,
    /// Context length.
    pub max_position_embeddings: usize,
}

impl ModelConfig {
    /// A configuration with what most families share: full attention, scores multiplied by `1 / √head_dim`, no biases.
    ///
    /// # Errors
    /// [`ModelError::Config`] names a size that is 0.
    pub fn plain(family: &'static Family, model_type: String, sizes: Sizes, tokens: TokenIds) -> Result<Self> {
        let positive = |name: &str, value: usize| {
            if value == 0 {
                return Err(ModelError::Config { reason: format!("`{name}`: expected at least 1, got 0") });
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
            max_position_embeddings: positive("max_position_embeddings", sizes.max_position_embeddings)?,
            tie_word_embeddings: false,
            rms_norm_eps: 1e-6,
            activation: Activation::Silu,
            experts: None,
            biases: Biases::default(),
            norms_span_heads: false,
            attention_scale: (head_dim as f64).powf(-0.5),
            query_scaling: None,
            attention_softcap: None,
            embedding_scale: None,
            residual_multiplier: None,
            logits_scaling: None,
            logits_softcap: None,
            sliding_window: None,
            layers: vec![LayerConfig { is_sliding: false, rotary: Some(0) }],
            rotary_dim: None,
            rotary: vec![RotaryConfig { theta: 10_000.0, scaling: None }],
            bos_token_id: tokens.bos,
            eos_token_id: tokens.eos,
            // Some files name a token that has no row in the embedding.
            pad_token_id: tokens.pad.filter(|id| (*id as usize) < sizes.vocab_size),
        })
    }

    /// What distinguishes the layer of that index.
    pub fn layer(&self, index: usize) -> LayerConfig {
        self.layers[index % self.layers.len()]
    }

    /// How many tokens a token attends to in the layer of that index, itself included; `None` means all before it.
    pub fn window(&self, index: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.layer(index).is_sliding)
    }

    /// The experts of the layer of that index; `None` if it has a plain feed-forward.
    pub fn experts_of(&self, index: usize) -> Option<&ExpertsConfig> {
        self.experts.as_ref().filter(|experts| !experts.dense_layers.contains(&index))
    }

    /// How many elements of a head are rotated.
    pub fn rotated_elements(&self) -> usize {
        self.rotary_dim.unwrap_or(self.head_dim)
    }

    /// Checks that the values are consistent and that no size is unreasonably large.
    fn check(&self) -> Result<()> {
        let reason = if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            format!(
                "`num_attention_heads`: expected a multiple of `num_key_value_heads`, which is {1}, got {0}",
                self.num_attention_heads, self.num_key_value_heads
            )
        } else if !self.head_dim.is_multiple_of(2) {
            format!("`head_dim`: expected an even number, got {}", self.head_dim)
        } else if !(2..=self.head_dim).contains(&self.rotated_elements()) || !self.rotated_elements().is_multiple_of(2) {
            let (heads, rotated) = (self.head_dim, self.rotated_elements());
            format!("`partial_rotary_factor`: expected an even number of elements, up to {heads}, to rotate, got {rotated}")
        } else if self.rms_norm_eps < 0.0 {
            format!("`rms_norm_eps`: expected at least 0, got {}", self.rms_norm_eps)
        } else if let Some(scaling) = self.query_scaling.filter(|scaling| scaling.length == 0 || !scaling.beta.is_finite()) {
            format!("the factor on queries: expected a finite `beta` and a positive length, got {scaling:?}")
        } else if !self.attention_scale.is_finite() {
            format!("the factor on attention scores: expected a finite number, got {}", self.attention_scale)
        } else if let Some((name, size)) = self.unreasonable_size() {
            format!("`{name}` is {size}, which is unreasonably large")
        } else if self.sliding_window == Some(0) {
            "`sliding_window`: expected at least 1, got 0".to_owned()
        } else if self.sliding_window.is_none() && self.layers.iter().any(|layer| layer.is_sliding) {
            "`sliding_window`: expected a number of tokens, because there are sliding layers, got none".to_owned()
        } else {
            self.experts.as_ref().map_or(Ok(()), ExpertsConfig::check)?;
            return self.rotary.iter().try_for_each(|rotary| rotary.check(self.rotated_elements()));
        };
        Err(ModelError::Config { reason })
    }

    /// A size that no model has. Computing with it could overflow or exhaust the memory.
    fn unreasonable_size(&self) -> Option<(&'static str, usize)> {
        let limits = [
            ("head_dim", self.head_dim, 1024),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
        ];
        limits.into_iter().find(|(_, size, limit)| size > limit).map(|(name, size, _)| (name, size))
    }
}

#[cfg(test)]
mod tests;
