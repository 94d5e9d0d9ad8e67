//! Reads tensors on a device like a checkpoint.

use std::collections::BTreeMap;

use burnish_kernels::FusedBackend;
use burnish_models::error::Result;
use burnish_models::{BaseTensor, Checkpoint, LanguageModel, ModelError};

/// Handles of tensors by name; a tensor is copied to the host only when it is read.
pub struct DeviceTensors<B: FusedBackend>(BTreeMap<String, BaseTensor<B>>);

impl<B: FusedBackend> DeviceTensors<B> {
    /// The base weights of a model under their checkpoint names.
    pub fn weights(model: &LanguageModel<B>) -> Self {
        model.weights().into_iter().collect()
    }
}

impl<B: FusedBackend, T: Into<BaseTensor<B>>> FromIterator<(String, T)> for DeviceTensors<B> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(tensors: I) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
    }
}

impl<B: FusedBackend> Checkpoint for DeviceTensors<B> {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(BaseTensor::shape)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let missing = || ModelError::Mismatch { problems: vec![format!("{name}: missing")] };
        self.0.get(name).map(BaseTensor::to_f32).ok_or_else(missing)
    }
}
