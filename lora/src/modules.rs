//! Matrices that are trained as a whole beside the adapters: the embedding and the head.

use burn::tensor::{DType, TensorData};
use burnish_kernels::FusedBackend;
use burnish_models::part::Role;
use burnish_models::weight::{MatrixWeight, unpadded};
use burnish_models::{LanguageModel, ModelConfig};

use crate::error::{LoraError, Result};
use crate::pattern::is_named;

/// The last parts of their names. A tensor of an adapter file that has one of them is never that of a linear layer of a block.
pub(crate) const NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

/// The names of the embedding and the head without `.weight`, also of a head that is the embedding.
pub(crate) fn names<B: FusedBackend>(model: &LanguageModel<B>) -> Vec<String> {
    let own = model.matrices().into_iter().map(|matrix| matrix.name.as_str());
    own.chain(model.tied_head()).map(|name| module(name).to_owned()).collect()
}

/// As [`names`], of a model that is not loaded.
pub(crate) fn declared_names(config: &ModelConfig) -> Vec<String> {
    let parts = [Role::Embedding, Role::Head].into_iter().filter_map(|role| config.family.part(role));
    parts.map(|part| part.checkpoint_name(None)).collect()
}

/// The name of the module of a weight.
pub(crate) fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Checks that `modules_to_save` has no other names.
pub(crate) fn check(modules_to_save: &[String], known: &[String]) -> Result<()> {
    match modules_to_save.iter().find(|name| !known.iter().any(|known| is_named(known, name))) {
        None => Ok(()),
        Some(other) => {
            Err(LoraError::Config { reason: format!("modules_to_save: expected {}, got {other}", known.join(" or ")) })
        }
    }
}

/// Makes the matrices of those names trainable, in f32.
pub(crate) fn train<B: FusedBackend>(model: &mut LanguageModel<B>, modules_to_save: &[String], device: &B::Device) {
    let tied = model.tied_head().map(str::to_owned);
    for matrix in model.matrices_mut() {
        let called = [Some(matrix.name.as_str()), tied.as_deref()].into_iter().flatten().map(module);
        if called.into_iter().any(|own| modules_to_save.iter().any(|name| is_named(own, name))) {
            let values = matrix.weight.operand().to_f32();
            matrix.weight = trainable(&matrix.name, values, matrix.weight.dims(), device);
        }
    }
}

/// A matrix that is trained.
pub(crate) fn trainable<B: FusedBackend>(
    name: &str,
    values: Vec<f32>,
    shape: [usize; 2],
    device: &B::Device,
) -> MatrixWeight<B> {
    MatrixWeight::new(name, unpadded(TensorData::new(values, shape), shape, device, DType::F32), true)
}
