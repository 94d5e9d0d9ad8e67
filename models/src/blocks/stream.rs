//! The residual stream.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, add_rms_norm, fork_rms_norm};

use super::Norm;

/// The residual stream, with an update that is not added yet: adding it and the next norm are one operation.
#[derive(Debug, Clone)]
pub struct Stream<B: Backend> {
    x: Tensor<B, 2>,
    update: Option<Tensor<B, 2>>,
}

impl<B: FusedBackend> Stream<B> {
    /// Adds the update and returns the stream, `[batch · length, hidden_size]`, to compute blocks separately.
    pub fn into_tensor(self) -> Tensor<B, 2> {
        match self.update {
            Some(update) => self.x + update,
            None => self.x,
        }
    }

    /// Adds the update; returns the stream and the normalised stream, both `[batch · length, hidden_size]`. Without a norm, they are
    /// the same.
    pub fn normed(self, norm: Option<&Norm<B>>) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let Some(norm) = norm else {
            let x = self.into_tensor();
            return (x.clone(), x);
        };
        match self.update {
            Some(update) => add_rms_norm(self.x, update, norm.factor(), norm.epsilon()),
            None => fork_rms_norm(self.x, norm.factor(), norm.epsilon()),
        }
    }

    /// The stream `x` with an update that is not added yet.
    pub fn with_update(x: Tensor<B, 2>, update: Tensor<B, 2>) -> Self {
        Self { x, update: Some(update) }
    }
}

impl<B: Backend> From<Tensor<B, 2>> for Stream<B> {
    fn from(x: Tensor<B, 2>) -> Self {
        Self { x, update: None }
    }
}
