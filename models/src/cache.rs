//! The key-value cache of generation.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, append, prefix};

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
    pub fn append(&mut self, key: Tensor<B, 4>, value: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let [batch, new, heads, head_dim] = key.dims();
        let (start, end) = (self.length, self.length + new);
        let buffers = match self.buffers.take() {
            Some((keys, values)) if keys.dims()[1] >= end => [keys, values],
            old => {
                let shape = [batch, end.next_multiple_of(GROWTH), heads, head_dim];
                // Of one dimension, because backends may pad the rows of matrices.
                let empty = [(); 2]
                    .map(|()| Tensor::<B, 1>::zeros([shape.iter().product::<usize>()], (&key.device(), key.dtype())).reshape(shape));
                match old {
                    Some((keys, values)) if start > 0 => append(empty, [keys, values].map(|old| prefix(old, start)), 0),
                    _ => empty,
                }
            }
        };
        let [keys, values] = append(buffers, [key, value], start);
        self.length = end;
        let seen = (prefix(keys.clone(), end), prefix(values.clone(), end));
        self.buffers = Some((keys, values));
        seen
    }
}
