//! The feed-forward of a block: one, or experts.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::FusedBackend;

use super::{Experts, Mlp};
use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::part::PartLoader;

/// The feed-forward of a block.
#[derive(Module, Debug)]
pub enum FeedForward<B: Backend> {
    /// One for all tokens.
    Dense(Mlp<B>),
    /// Experts, of which each token uses a few.
    Experts(Experts<B>),
}

impl<B: FusedBackend> FeedForward<B> {
    pub(super) fn load(parts: &mut PartLoader<B>, layer: usize) -> Result<Self> {
        match parts.config.experts_of(layer) {
            Some(experts) => Experts::load(parts, experts).map(Self::Experts),
            None => Mlp::load(parts).map(Self::Dense),
        }
    }

    /// The update of the residual stream; `x` is the normalised stream, and both are `[rows, hidden_size]`.
    pub fn forward(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, pass),
            Self::Experts(experts) => experts.forward(x, pass),
        }
    }

    /// The inner width of a token: of all its experts, if there are any.
    pub fn width(&self) -> usize {
        match self {
            Self::Dense(mlp) => mlp.output.dims()[1],
            Self::Experts(experts) => experts.width(),
        }
    }

    /// The layers to which adapters can be attached.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        let mlp = match self {
            Self::Dense(mlp) => Some(mlp),
            Self::Experts(_) => None,
        };
        mlp.into_iter().flat_map(|mlp| mlp.input.linears.iter().chain([&mlp.output]))
    }

    /// Mutable references to [`FeedForward::linears`].
    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let mlp = match self {
            Self::Dense(mlp) => Some(mlp),
            Self::Experts(_) => None,
        };
        mlp.into_iter().flat_map(|mlp| mlp.input.linears.iter_mut().chain([&mut mlp.output]))
    }

    /// Mutable references to [`FeedForward::linears`], or to the router.
    pub(super) fn adaptable_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let (mlp, router) = match self {
            Self::Dense(mlp) => (Some(mlp), None),
            Self::Experts(experts) => (None, Some(&mut experts.router)),
        };
        mlp.into_iter().flat_map(|mlp| mlp.input.linears.iter_mut().chain([&mut mlp.output])).chain(router)
    }

    /// The experts, if there are any.
    pub fn experts(&self) -> Option<&Experts<B>> {
        match self {
            Self::Dense(_) => None,
            Self::Experts(experts) => Some(experts),
        }
    }

    /// A mutable reference to [`FeedForward::experts`].
    pub fn experts_mut(&mut self) -> Option<&mut Experts<B>> {
        match self {
            Self::Dense(_) => None,
            Self::Experts(experts) => Some(experts),
        }
    }
}
