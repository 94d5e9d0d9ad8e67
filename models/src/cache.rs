//! The key-value cache of generation.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, RotaryTable, append, append_rotated, prefix};

/// The capacity grows in steps of this many tokens.
const GROWTH: usize = 256;

/// The keys and values of earlier tokens, for all layers.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    /// Whether the keys have the rotary frequencies of long texts.
    pub(crate) is_long: bool,
}

/// The keys and values of earlier tokens, for one layer.
#[derive(Debug, Clone)]
pub struct LayerCache<B: Backend> {
    /// Keys and values, `[batch, capacity, heads, head_dim]`.
    buffers: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
    length: usize,
}

impl<B: Backend> Cache<B> {
    /// An empty cache for a model with that many layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache { buffers: None, length: 0 }).collect(), is_long: false }
    }

    /// The number of tokens in the cache.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.length)
    }

    /// Whether the cache has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            layer.length = layer.length.min(length);
        }
    }

    /// The cache of the layer of that index.
    pub fn layer(&mut self, index: usize) -> &mut LayerCache<B> {
        &mut self.layers[index]
    }
}

impl<B: FusedBackend> LayerCache<B> {
    /// Appends the keys and values of new tokens, each `[batch, new, heads, head_dim]`, and returns those of all tokens, each
    /// `[batch, length, heads, head_dim]`.
    pub fn append(&mut self, key: Tensor<B, 4>, value: Tensor<B, 4>) -> [Tensor<B, 4>; 2] {
        let (buffers, start) = (self.room(key.dims(), &value), self.length);
        let new = key.dims()[1];
        self.seen(append(buffers, [key, value], start), new)
    }

    /// As [`LayerCache::append`], with the keys rotated by the table, and returns the rotated queries too. Queries, keys and values are
    /// `[batch · new, heads, head_dim]`.
    pub fn append_rotated(
        &mut self,
        query: Tensor<B, 3>,
        [key, value]: [Tensor<B, 3>; 2],
        table: &RotaryTable<B>,
        batch: usize,
    ) -> (Tensor<B, 3>, [Tensor<B, 4>; 2]) {
        let [tokens, heads, head_dim] = key.dims();
        let (buffers, start) = (self.room([batch, tokens / batch, heads, head_dim], &value), self.length);
        let (query, buffers) = append_rotated(query, [key, value], table, buffers, start);
        (query, self.seen(buffers, tokens / batch))
    }

    /// The buffers, with room for new rows of that shape, `[batch, new, heads, head_dim]`, of the type of `like`.
    fn room<const D: usize>(&mut self, shape: [usize; 4], like: &Tensor<B, D>) -> [Tensor<B, 4>; 2] {
        let [batch, new, heads, head_dim] = shape;
        let end = self.length + new;
        match self.buffers.take() {
            Some((keys, values)) if keys.dims()[1] >= end => [keys, values],
            old => {
                let shape = [batch, end.next_multiple_of(GROWTH), heads, head_dim];
                let count = shape.iter().product::<usize>();
                // Of one dimension, because backends may pad the rows of matrices.
                let empty = [(); 2].map(|()| Tensor::<B, 1>::zeros([count], (&like.device(), like.dtype())).reshape(shape));
                match old {
                    Some((keys, values)) if self.length > 0 => {
                        append(empty, [keys, values].map(|old| prefix(old, self.length)), 0)
                    }
                    _ => empty,
                }
            }
        }
    }

    /// Keeps the buffers, into which `new` rows were written, and returns the rows so far.
    fn seen(&mut self, [keys, values]: [Tensor<B, 4>; 2], new: usize) -> [Tensor<B, 4>; 2] {
        self.length += new;
        let seen = [&keys, &values].map(|buffer| prefix(buffer.clone(), self.length));
        self.buffers = Some((keys, values));
        seen
    }
}
