//! The families, one file each, and their registry.

mod exaone4;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod granite;
mod granite4;
mod llama;
mod ministral3;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod seed_oss;
mod smollm3;

use crate::config::Family;
use crate::error::{ModelError, Result};

/// Every family.
pub static FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma3::FAMILY,
    &olmo2::FAMILY,
    &granite::FAMILY,
    &smollm3::FAMILY,
    &gemma2::FAMILY,
    &phi3::FAMILY,
    &ministral3::FAMILY,
    &granite4::FAMILY,
    &qwen3_moe::FAMILY,
    &gpt_oss::FAMILY,
    &gemma::FAMILY,
    &seed_oss::FAMILY,
    &exaone4::FAMILY,
];

/// The family of a `model_type` of `config.json`.
///
/// # Errors
/// [`ModelError::UnknownModelType`] lists the known ones.
pub fn by_model_type(model_type: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.model_types.iter().any(|known| known.name == model_type));
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types).map(|known| known.name).collect();
        ModelError::UnknownModelType { model_type: model_type.to_owned(), known: known.join(", ") }
    })
}

/// The family of a `general.architecture` of a GGUF file.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`] lists the known ones.
pub fn by_architecture(architecture: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.gguf.name == architecture);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.gguf.name).collect();
        ModelError::UnknownArchitecture { architecture: architecture.to_owned(), known: known.join(", ") }
    })
}

#[cfg(test)]
mod tests;
