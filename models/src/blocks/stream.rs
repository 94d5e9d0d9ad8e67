//! The residual stream.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, add_rms_norm};

use super::Norm;

/// The residual stream, and what is about to be added to it: adding and normalising are one operation.
#[derive(Debug, Clone)]
pub struct Stream<B: Backend> {
    x: Tensor<B, 2>,
    update: Option<Tensor<B, 2>>,
}

impl<B: FusedBackend> Stream<B> {
    /// The stream as one tensor, `[batch · length, hidden_size]`: what crosses from block to block where each is computed apart.
    pub fn into_tensor(self) -> Tensor<B, 2> {
        match self.update {
            Some(update) => self.x + update,
            None => self.x,
        }
    }

    /// The stream with its update added, and its norm.
    pub fn normed(self, norm: &Norm<B>) -> (Tensor<B, 2>, Tensor<B, 2>) {
        match self.update {
            Some(update) => add_rms_norm(self.x, update, norm.factor(), norm.epsilon()),
            None => (self.x.clone(), norm.forward(self.x)),
        }
    }

    /// The stream with an update that is yet to be added.
    pub fn with_update(x: Tensor<B, 2>, update: Tensor<B, 2>) -> Self {
        Self { x, update: Some(update) }
    }
}

impl<B: Backend> From<Tensor<B, 2>> for Stream<B> {
    fn from(x: Tensor<B, 2>) -> Self {
        Self { x, update: None }
    }
}
