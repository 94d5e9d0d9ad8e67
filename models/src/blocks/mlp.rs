//! The gated feed-forward.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::glu::Activation;
use burnish_kernels::{FusedBackend, TrainBackend};

use super::Projections;
use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::operand::{Operand, gated};
use crate::part::{PartLoader, Role};

/// The gated feed-forward: `down(activation(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// The projections to the gate and to what it is multiplied by.
    pub input: Projections<B>,
    /// The projection back to the residual stream.
    pub output: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: FusedBackend> Mlp<B> {
    pub(super) fn load(parts: &mut PartLoader<B>) -> Result<Self> {
        Ok(Self {
            input: Projections::load(parts, &[Role::Gate, Role::Up], Role::GateUp)?,
            output: parts.linear(Role::Down)?,
            activation: parts.config.activation,
        })
    }

    /// The update of the residual stream; `x` is the normalised stream, and both are `[rows, hidden_size]`.
    pub fn forward(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2> {
        self.output.forward(self.inner(x, pass), pass)
    }

    /// [`Mlp::forward`] for its gradients only, see [`Linear::unread`].
    pub fn unread(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2>
    where
        B: TrainBackend,
    {
        self.output.unread(self.inner(x, pass), pass)
    }

    /// `activation(gate(x)) · up(x)`.
    fn inner(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2> {
        if let Some(weights) = self.input.plain_weights(pass) {
            Operand::glu_linear(x, weights, self.activation)
        } else {
            let [gate, up] = self.input.forward(x, pass);
            gated(gate, up, self.activation)
        }
    }
}
