//! Attention with grouped key-value heads.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{AttentionOptions, FusedBackend, attention, rotary, sink_attention, view};

use super::{BlockState, Norm, Projections};
use crate::cache::LayerCache;
use crate::error::Result;
use crate::linear::Linear;
use crate::part::{PartLoader, Role};

/// The attention of one layer.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// The projections to queries, keys and values.
    pub input: Projections<B>,
    /// The norm of each query head, or of all of them together.
    pub query_norm: Option<Norm<B>>,
    /// The norm of each key head, or of all of them together.
    pub key_norm: Option<Norm<B>>,
    /// One more score of each head, `[heads]` and f32, if there are any.
    pub sinks: Option<Sinks<B>>,
    /// The projection back to the residual stream.
    pub output: Linear<B>,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    /// The index of its table in [`BlockState::rotary`].
    rotary: Option<usize>,
    #[module(skip)]
    options: AttentionOptions,
}

/// Scores that take part in the softmax of attention, but have no value. They are never trained.
#[derive(Module, Debug)]
pub struct Sinks<B: Backend> {
    /// One a head, `[heads]`, in f32.
    pub weight: Tensor<B, 1>,
    /// The checkpoint name.
    #[module(skip)]
    pub name: String,
}

impl<B: Backend> Attention<B> {
    /// The number of elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

impl<B: FusedBackend> Attention<B> {
    pub(super) fn load(parts: &mut PartLoader<B>, layer: usize) -> Result<Self> {
        let config = parts.config;
        Ok(Self {
            input: Projections::load(parts, &[Role::Query, Role::Key, Role::Value], Role::QueryKeyValue)?,
            query_norm: parts.optional_norm(Role::QueryNorm)?,
            key_norm: parts.optional_norm(Role::KeyNorm)?,
            sinks: parts.sinks()?.map(|(name, weight)| Sinks { weight, name }),
            output: parts.linear(Role::AttentionOutput)?,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rotary: config.layer(layer).rotary,
            options: AttentionOptions {
                scale: config.attention_scale,
                sliding_window: config.window(layer),
                softcap: config.attention_softcap,
            },
        })
    }

    /// The update of the residual stream; `x` is the normalised stream, and both are `[batch · length, hidden_size]`.
    pub fn forward(&self, x: Tensor<B, 2>, state: &BlockState<B>, cache: Option<&mut LayerCache<B>>) -> Tensor<B, 2> {
        let [batch, length] = state.dims;
        let [query, key, value] = self.input.forward(x, state.adapters);
        let normed = |x: Tensor<B, 2>, norm: Option<&Norm<B>>| match norm {
            Some(norm) => norm.forward_parts(x),
            None => x,
        };
        let by_head = |x: Tensor<B, 2>, heads: usize| view(x, [batch * length, heads, self.head_dim]);
        let query = by_head(normed(query, self.query_norm.as_ref()), self.heads);
        let key = by_head(normed(key, self.key_norm.as_ref()), self.key_value_heads);
        let value = by_head(value, self.key_value_heads);
        let by_text = |x: Tensor<B, 3>| {
            let [_, heads, head_dim] = x.dims();
            view(x, [batch, length, heads, head_dim])
        };
        let table = self.rotary.map(|table| &state.rotary[table]);
        let (mut query, [key, value]) = match (table, cache) {
            (Some(table), Some(cache)) => cache.append_rotated(query, [key, value], table, batch),
            (None, Some(cache)) => (query, cache.append(by_text(key), by_text(value))),
            (table, None) => {
                let (query, key) = match table {
                    Some(table) => rotary(query, key, table),
                    None => (query, key),
                };
                (query, [key, value].map(by_text))
            }
        };
        if let Some(scale) = &state.query_scale {
            let scale = scale.clone().cast(query.dtype()).reshape([batch * length, 1, 1]);
            query = query * scale;
        }
        let query = by_text(query);
        let segments = state.segments.clone();
        let output = match &self.sinks {
            Some(sinks) => sink_attention(query, [key, value], segments, sinks.weight.clone(), self.options),
            None => attention(query, key, value, segments, self.options),
        };
        self.output.forward(view(output, [batch * length, self.heads * self.head_dim]), state.adapters)
    }
}
