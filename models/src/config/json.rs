//! The keys of `config.json` that all families read in the same way.

use burnish_kernels::glu::Activation;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Family;
use crate::error::{ModelError, Result};

/// Reads the file into a family's own structure.
pub(crate) fn parse<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|error| ModelError::Config { reason: error.to_string() })
}

/// Refuses an activation other than the family's `own`. The key may be absent.
pub(crate) fn require_activation(key: &str, name: Option<&str>, own: Activation) -> Result<()> {
    let (names, own): (&[&str], &str) = match own {
        Activation::Silu => (&["silu", "swish"], "silu"),
        Activation::GeluTanh => (&["gelu_pytorch_tanh", "gelu_new"], "gelu_pytorch_tanh"),
    };
    match name.filter(|name| !names.contains(name)) {
        Some(other) => Err(ModelError::Config { reason: format!("`{key}`: expected {own}, got `{other}`") }),
        None => Ok(()),
    }
}

/// Inserts a value, unless that is null, for a key that is absent or null.
pub fn insert_absent(json: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value.filter(|value| !value.is_null() && json.get(key).is_none_or(Value::is_null)) {
        json.insert(key.to_owned(), value);
    }
}

/// Keys that change what a decoder computes. A family that reads one has it in [`Family::reads`].
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

/// Refuses these keys by name, unless the family reads them or their value has no effect.
pub(crate) fn refuse_unread(json: &Value, family: &Family) -> Result<()> {
    for key in UNREAD.iter().filter(|key| !family.reads.contains(key)) {
        let Some(value) = json.get(key) else { continue };
        let has_no_effect = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_f64() == Some(1.0),
            _ => false,
        };
        if !has_no_effect {
            return Err(ModelError::Config { reason: format!("`{key}` is {value}, which is not supported") });
        }
    }
    Ok(())
}

/// The dropouts of the classes of transformers. They are active while training, not otherwise.
const DROPOUTS: &[&str] = &[
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "residual_dropout",
];

/// The dropouts in `config.json` that are not 0, by key. None is applied: adapters have a dropout of their own.
pub fn ignored_dropouts(json: &Value) -> Vec<(&'static str, f64)> {
    let value = |key: &&'static str| Some((*key, json.get(*key)?.as_f64().filter(|value| *value != 0.0)?));
    DROPOUTS.iter().filter_map(value).collect()
}

/// The special tokens of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The token that pads short rows.
    pub pad: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    /// Reads the tokens of a `config.json`. Negative ids, which some files have, mean that there is no such token.
    ///
    /// # Errors
    /// [`ModelError::Config`] if one is neither a number nor a list of numbers.
    pub fn read(json: &Value) -> Result<Self> {
        Self::default().or_read(json)
    }

    /// Reads the tokens of a `config.json`; keys that it lacks keep the value in `self`.
    ///
    /// # Errors
    /// As [`TokenIds::read`].
    pub fn or_read(self, json: &Value) -> Result<Self> {
        let ids = |key: &str| -> Result<Option<Vec<u32>>> {
            let Some(value) = json.get(key) else { return Ok(None) };
            let found: Option<OneOrMany> = Deserialize::deserialize(value).map_err(|_| ModelError::Config {
                reason: format!("`{key}`: expected a token id or a list of them, got {value}"),
            })?;
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
