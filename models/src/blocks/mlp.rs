//! The gated feed-forward.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::FusedBackend;
use burnish_kernels::glu::Activation;

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
        let inner = if let Some(weights) = self.input.plain_weights(pass) {
            Operand::glu_linear(x, weights, self.activation)
        } else {
            let [gate, up] = self.input.forward(x, pass);
            gated(gate, up, self.activation)
        };
        self.output.forward(inner, pass)
    }
}
