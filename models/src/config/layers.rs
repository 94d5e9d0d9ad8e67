//! What tells layers and their linear parts apart.

use crate::error::{ModelError, Result};

/// Which linear layers have biases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    /// To queries, keys and values.
    pub query_key_value: bool,
    /// From attention back to the residual stream.
    pub attention_output: bool,
    /// Of the feed-forward.
    pub mlp: bool,
}

/// What may differ from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Its attention has the window of the configuration.
    pub is_sliding: bool,
    /// Which of the configuration's angles rotate its queries and keys; none of them where absent.
    pub rotary: Option<usize>,
}

impl LayerConfig {
    /// All layers: by `layer_types` where the file has them, else by what the family says of an index.
    ///
    /// # Errors
    /// When a layer's type is not known, or there are fewer of them than layers.
    pub fn list(types: Option<&[String]>, count: usize, is_sliding: impl Fn(usize) -> bool) -> Result<Vec<Self>> {
        let refuse = |reason: String| Err(ModelError::Config { reason });
        let Some(types) = types else {
            // As many as have a name; the check of sizes refuses more.
            let layers = (0..count.min(1 << 12)).map(|layer| Self { is_sliding: is_sliding(layer), rotary: Some(0) });
            return Ok(layers.collect());
        };
        if types.len() != count {
            return refuse(format!("`layer_types` has {} entries for {count} layers", types.len()));
        }
        let mut layers = Vec::with_capacity(count);
        for kind in types {
            let is_sliding = match kind.as_str() {
                "full_attention" => false,
                "sliding_attention" => true,
                other => return refuse(format!("`layer_types` has `{other}`, which is not computed here")),
            };
            layers.push(Self { is_sliding, rotary: Some(0) });
        }
        Ok(layers)
    }
}
