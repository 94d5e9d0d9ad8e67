//! Differences between layers, which linear layers have biases, and the factor on queries.

use crate::error::{ModelError, Result};

/// Which linear layers have biases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    /// The projections to queries, keys and values.
    pub query_key_value: bool,
    /// The projection from attention back to the residual stream.
    pub attention_output: bool,
    /// The projections of the feed-forward.
    pub mlp: bool,
}

/// A factor on queries that grows with their position: `1 + beta · ln(1 + ⌊position / length⌋)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScaling {
    /// How fast it grows.
    pub beta: f64,
    /// The number of positions after which it grows.
    pub length: usize,
}

impl QueryScaling {
    /// The factor at a position.
    ///
    /// # Source
    /// `get_llama_4_attn_scale` of transformers 5.
    pub fn factor(self, position: u32) -> f64 {
        1.0 + self.beta * (1.0 + f64::from(position / self.length as u32)).ln()
    }
}

/// What can differ from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Whether its attention is limited to the window of the configuration.
    pub is_sliding: bool,
    /// The index of its frequencies in [`ModelConfig::rotary`](super::ModelConfig::rotary); `None` means no rotation.
    pub rotary: Option<usize>,
}

impl LayerConfig {
    /// One entry per layer: by `types`, the file's `layer_types`, or by `is_sliding` of the index if the file has none.
    ///
    /// # Errors
    /// [`ModelError::Config`] if a type is unknown, or if there is not one per layer.
    pub fn list(types: Option<&[String]>, count: usize, is_sliding: impl Fn(usize) -> bool) -> Result<Vec<Self>> {
        let refuse = |reason: String| Err(ModelError::Config { reason });
        let Some(types) = types else {
            // `ModelConfig::check` refuses more layers than this.
            let layers = (0..count.min(1 << 12)).map(|layer| Self { is_sliding: is_sliding(layer), rotary: Some(0) });
            return Ok(layers.collect());
        };
        if types.len() != count {
            return refuse(format!("`layer_types`: expected {count} entries, one per layer, got {}", types.len()));
        }
        let mut layers = Vec::with_capacity(count);
        for kind in types {
            let is_sliding = match kind.as_str() {
                "full_attention" => false,
                "sliding_attention" => true,
                other => return refuse(format!("`layer_types` has `{other}`, which is not supported")),
            };
            layers.push(Self { is_sliding, rotary: Some(0) });
        }
        Ok(layers)
    }
}
