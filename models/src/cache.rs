//! Keys and values of the tokens seen so far.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Positions by which a full cache grows.
const GROWTH: usize = 256;

/// The key-value cache of all layers.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
}

/// The cache of one layer.
#[derive(Debug, Clone)]
pub struct LayerCache<B: Backend> {
    buffers: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
    length: usize,
}

impl<B: Backend> Cache<B> {
    /// An empty cache.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache { buffers: None, length: 0 }).collect() }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.length)
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            layer.length = layer.length.min(length);
        }
    }

    /// The cache of one layer.
    pub fn layer(&mut self, index: usize) -> &mut LayerCache<B> {
        &mut self.layers[index]
    }
}

impl<B: Backend> LayerCache<B> {
    /// Appends `[batch, new, heads, head_dim]` keys and values; returns those of all tokens.
    pub fn append(&mut self, key: Tensor<B, 4>, value: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let [batch, new, heads, head_dim] = key.dims();
        let (start, end) = (self.length, self.length + new);
        let (mut keys, mut values) = match self.buffers.take() {
            Some((keys, values)) if keys.dims()[1] >= end => (keys, values),
            old => {
                let capacity = end.next_multiple_of(GROWTH);
                let grow = |old: Option<Tensor<B, 4>>| {
                    let empty = Tensor::zeros([batch, capacity, heads, head_dim], (&key.device(), key.dtype()));
                    match old {
                        Some(old) => {
                            let seen = old.narrow(1, 0, start.max(1));
                            empty.slice_assign([0..batch, 0..start.max(1), 0..heads, 0..head_dim], seen)
                        }
                        None => empty,
                    }
                };
                let (old_keys, old_values) = old.unzip();
                (grow(old_keys), grow(old_values))
            }
        };
        let place = [0..batch, start..end, 0..heads, 0..head_dim];
        keys = keys.slice_assign(place.clone(), key);
        values = values.slice_assign(place, value);
        self.length = end;
        let seen = (keys.clone().narrow(1, 0, end), values.clone().narrow(1, 0, end));
        self.buffers = Some((keys, values));
        seen
    }
}
