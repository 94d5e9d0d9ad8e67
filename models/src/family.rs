//! What a family is, as data.

use std::fmt;

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::error::Result;
use crate::gguf::Metadata;
use crate::part::{Part, Role};

/// Everything that tells the decoders of one family from others. Loading, adapters, merging and export follow from it.
pub struct Family {
    /// The `model_type`s of its checkpoints; the first is what its GGUF files are read as.
    pub model_types: &'static [ModelType],
    /// Reads `config.json`.
    pub configure: fn(&Value) -> Result<ModelConfig>,
    /// Every kind of tensor that it has.
    pub parts: &'static [Part],
    /// Norms multiply by this plus their weight. GGUF files keep the sum.
    pub norm_offset: f64,
    /// What llama.cpp runs it as.
    pub gguf: GgufArchitecture,
}

/// A `model_type` with the class that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelType {
    /// As in `config.json`.
    pub name: &'static str,
    /// The class of transformers, as in `architectures`.
    pub class: &'static str,
}

/// An architecture of llama.cpp, and what its files say beyond the sizes that all of them have.
#[derive(Clone, Copy)]
pub struct GgufArchitecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Whether llama.cpp computes sliding windows for it.
    pub has_windows: bool,
    /// Writes its own keys, or says what of the configuration llama.cpp would not compute.
    pub write: fn(&ModelConfig, &mut Metadata) -> std::result::Result<(), String>,
    /// Reads its own keys into a `config.json`.
    pub read: fn(&Metadata, &mut Map<String, Value>),
}

impl Family {
    /// The part of a role, where the family has it.
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
