//! The transformer block.

use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor};
use burnish_kernels::{FusedBackend, RotaryTable, TrainBackend, scale};

use super::{Attention, Experts, FeedForward, Norm, Stream};
use crate::cache::LayerCache;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::loader::Loader;
use crate::part::{PartLoader, Role};
use crate::stacked::ExpertStack;

/// A transformer block: attention and feed-forward, each with a norm before it, after it, or both.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// The norm before attention.
    pub input_norm: Option<Norm<B>>,
    /// The attention.
    pub attention: Attention<B>,
    /// The norm after attention, before the result is added to the residual stream.
    pub post_attention_norm: Option<Norm<B>>,
    /// The norm before the feed-forward.
    pub feed_forward_norm: Option<Norm<B>>,
    /// The feed-forward.
    pub mlp: FeedForward<B>,
    /// The norm after the feed-forward, before the result is added to the residual stream.
    pub post_feed_forward_norm: Option<Norm<B>>,
    residual_multiplier: Option<f64>,
}

/// What all blocks of a forward pass share.
#[derive(Debug, Clone)]
pub struct BlockState<B: Backend> {
    /// The shape of the input, `[batch, length]`.
    pub dims: [usize; 2],
    /// The cosines and sines, one table for each entry of [`ModelConfig::rotary`].
    pub rotary: Vec<RotaryTable<B>>,
    /// The factor on the query of each token, `[batch · length]` and f32; `None` if all are 1.
    pub query_scale: Option<Tensor<B, 1>>,
    /// Segment ids, `[batch, length]`: tokens attend only to tokens with the same id.
    pub segments: Option<Tensor<B, 2, Int>>,
    /// Which adapters the pass uses.
    pub adapters: AdapterPass,
}

impl<B: AutodiffBackend> BlockState<B> {
    /// The state on the backend of training.
    pub fn from_inner(state: &BlockState<B::InnerBackend>) -> Self {
        let table = |table: &RotaryTable<B::InnerBackend>| RotaryTable {
            cos: Tensor::from_inner(table.cos.clone()),
            sin: Tensor::from_inner(table.sin.clone()),
        };
        Self {
            dims: state.dims,
            rotary: state.rotary.iter().map(table).collect(),
            query_scale: state.query_scale.clone().map(Tensor::from_inner),
            segments: state.segments.clone().map(Tensor::from_inner),
            adapters: state.adapters,
        }
    }
}

impl<B: FusedBackend> Block<B> {
    /// Loads the block of that index.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn load(config: &ModelConfig, loader: &mut Loader<B>, index: usize) -> Result<Self> {
        let mut parts = PartLoader::new(config, loader, Some(index));
        Ok(Self {
            input_norm: parts.optional_norm(Role::InputNorm)?,
            attention: Attention::load(&mut parts, index)?,
            post_attention_norm: parts.optional_norm(Role::PostAttentionNorm)?,
            feed_forward_norm: parts.optional_norm(Role::FeedForwardNorm)?,
            mlp: FeedForward::load(&mut parts, index)?,
            post_feed_forward_norm: parts.optional_norm(Role::PostFeedForwardNorm)?,
            residual_multiplier: config.residual_multiplier,
        })
    }

    /// The residual stream, `[batch · length, hidden_size]`, after the block.
    pub fn forward(&self, stream: Stream<B>, state: &BlockState<B>, cache: Option<&mut LayerCache<B>>) -> Stream<B> {
        self.feed_forward(self.attend(stream, state, cache), state.adapters)
    }

    /// The residual stream after the attention.
    pub fn attend(&self, stream: Stream<B>, state: &BlockState<B>, cache: Option<&mut LayerCache<B>>) -> Stream<B> {
        let (x, normed) = stream.normed(self.input_norm.as_ref());
        let update = self.attention.forward(normed, state, cache);
        Stream::with_update(x, self.scaled(update, self.post_attention_norm.as_ref()))
    }

    /// The residual stream after the feed-forward, from that after the attention. No row depends on another.
    pub fn feed_forward(&self, stream: Stream<B>, pass: AdapterPass) -> Stream<B> {
        let (x, normed) = stream.normed(self.feed_forward_norm.as_ref());
        let update = self.mlp.forward(normed, pass);
        Stream::with_update(x, self.scaled(update, self.post_feed_forward_norm.as_ref()))
    }

    /// [`Block::feed_forward`] for its gradients only: the result has no meaning.
    pub fn unread_feed_forward(&self, stream: Stream<B>, pass: AdapterPass) -> Stream<B>
    where
        B: TrainBackend,
    {
        match &self.mlp {
            // The norm's backward reads the values.
            FeedForward::Dense(mlp) if self.post_feed_forward_norm.is_none() => {
                let (x, normed) = stream.normed(self.feed_forward_norm.as_ref());
                Stream::with_update(x, self.scaled(mlp.unread(normed, pass), None))
            }
            FeedForward::Dense(_) | FeedForward::Experts(_) => self.feed_forward(stream, pass),
        }
    }

    fn scaled(&self, update: Tensor<B, 2>, norm: Option<&Norm<B>>) -> Tensor<B, 2> {
        let update = match norm {
            Some(norm) => norm.forward(update),
            None => update,
        };
        match self.residual_multiplier {
            Some(factor) => scale(update, factor),
            None => update,
        }
    }

    /// The linear layers to which adapters can be attached, in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        let attention = self.attention.input.linears.iter().chain([&self.attention.output]);
        attention.chain(self.mlp.linears())
    }

    /// The router, if the block has experts.
    pub fn router(&self) -> Option<&Linear<B>> {
        self.mlp.experts().map(|experts| &experts.router)
    }

    /// The linear layers of its experts.
    pub fn expert_linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.mlp.experts().into_iter().flat_map(Experts::linears)
    }

    /// The parameters that hold its experts.
    pub fn stacks(&self) -> &[ExpertStack<B>] {
        self.mlp.experts().map_or(&[], |experts| &experts.stacks)
    }

    /// Mutable references to [`Block::linears`].
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let attention = self.attention.input.linears.iter_mut().chain([&mut self.attention.output]);
        attention.chain(self.mlp.linears_mut())
    }

    /// Mutable references to [`Block::linears`], and to its router if it has experts.
    pub fn adaptable_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        let attention = self.attention.input.linears.iter_mut().chain([&mut self.attention.output]);
        attention.chain(self.mlp.adaptable_mut())
    }

    /// Its norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm<B>> {
        let of_attention =
            [&self.input_norm, &self.attention.query_norm, &self.attention.key_norm, &self.post_attention_norm];
        let of_mlp = [&self.feed_forward_norm, &self.post_feed_forward_norm];
        of_attention.into_iter().chain(of_mlp).flatten()
    }
}
