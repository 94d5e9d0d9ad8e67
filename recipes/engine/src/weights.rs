//! Reads the weights of a model on a device like a checkpoint.

use std::collections::BTreeMap;

use burnish_kernels::FusedBackend;
use burnish_models::error::Result;
use burnish_models::{AnyTensor, Checkpoint, LanguageModel, ModelError};

/// The base weights of a model under their checkpoint names.
pub struct ModelWeights<B: FusedBackend>(BTreeMap<String, AnyTensor<B>>);

impl<B: FusedBackend> ModelWeights<B> {
    /// Handles of a model's tensors; a tensor is copied to the host only when it is read.
    pub fn of(model: &LanguageModel<B>) -> Self {
        Self(model.weights().into_iter().collect())
    }
}

impl<B: FusedBackend> Checkpoint for ModelWeights<B> {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(AnyTensor::shape)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let missing = || ModelError::Mismatch { problems: vec![format!("{name}: missing")] };
        self.0.get(name).map(AnyTensor::to_f32).ok_or_else(missing)
    }
}
