//! The families, one file each.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use crate::error::{ModelError, Result};
use crate::family::Family;

/// Every family: the registry.
pub static FAMILIES: &[&Family] = &[&llama::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY];

/// The family of a `model_type`.
///
/// # Errors
/// [`ModelError::UnknownModelType`] lists those that are known.
pub fn by_model_type(model_type: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.model_types.iter().any(|known| known.name == model_type));
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types).map(|known| known.name).collect();
        ModelError::UnknownModelType { model_type: model_type.to_owned(), known: known.join(", ") }
    })
}

/// The family that llama.cpp runs as an architecture.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`] lists those that are known.
pub fn by_architecture(architecture: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.gguf.name == architecture);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.gguf.name).collect();
        ModelError::UnknownArchitecture { architecture: architecture.to_owned(), known: known.join(", ") }
    })
}

#[cfg(test)]
mod tests;
