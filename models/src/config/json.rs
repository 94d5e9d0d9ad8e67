//! Pieces of `config.json` that all families read alike.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ModelError, Result};

/// A family's own structure from the file.
pub(crate) fn parse<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|error| ModelError::Config { reason: error.to_string() })
}

/// Refuses an activation other than that of the family; an absent one is the family's.
pub(crate) fn require_activation(key: &str, name: Option<&str>, own: Activation) -> Result<()> {
    let (names, own): (&[&str], &str) = match own {
        Activation::Silu => (&["silu", "swish"], "silu"),
        Activation::GeluTanh => (&["gelu_pytorch_tanh", "gelu_new"], "gelu_pytorch_tanh"),
    };
    match name.filter(|name| !names.contains(name)) {
        Some(other) => Err(ModelError::Config { reason: format!("`{key}` is `{other}`; this family computes {own}") }),
        None => Ok(()),
    }
}

/// Keys that change what a decoder computes, and that no family here reads.
const UNREAD: &[&str] = &[
    "attn_logit_softcapping",
    "attention_multiplier",
    "clip_qkv",
    "embedding_multiplier",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "partial_rotary_factor",
    "residual_multiplier",
    "use_bidirectional_attention",
    "use_qk_norm",
];

/// Refuses those keys by name, unless their value changes nothing.
pub(crate) fn refuse_unread(json: &Value) -> Result<()> {
    for key in UNREAD {
        let Some(value) = json.get(key) else { continue };
        let changes_nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_f64() == Some(1.0),
            _ => false,
        };
        if !changes_nothing {
            return Err(ModelError::Config { reason: format!("`{key}` is {value}, which is not computed here") });
        }
    }
    Ok(())
}

/// The tokens that a configuration names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
    /// Fills short rows.
    pub pad: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    /// Those of the file; some files say -1 where there is no token.
    ///
    /// # Errors
    /// When one is neither a number nor a list of numbers.
    pub fn read(json: &Value) -> Result<Self> {
        Self::default().or_read(json)
    }

    /// Those of the file; what it lacks stays.
    ///
    /// # Errors
    /// As [`TokenIds::read`].
    pub fn or_read(self, json: &Value) -> Result<Self> {
        let ids = |key: &str| -> Result<Option<Vec<u32>>> {
            let Some(value) = json.get(key) else { return Ok(None) };
            let found: Option<OneOrMany> = Deserialize::deserialize(value)
                .map_err(|_| ModelError::Config { reason: format!("`{key}` is {value}, which is no token id") })?;
            let ids = match found {
                None => Vec::new(),
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
            };
            Ok(Some(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()))
        };
        let first = |ids: Option<Vec<u32>>, own: Option<u32>| ids.map_or(own, |ids| ids.first().copied());
        Ok(Self {
            bos: first(ids("bos_token_id")?, self.bos),
            eos: ids("eos_token_id")?.unwrap_or(self.eos),
            pad: first(ids("pad_token_id")?, self.pad),
        })
    }
}
