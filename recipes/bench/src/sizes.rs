//! The sizes of a training step, and its FLOPs.

use burnish_kernels::packed::nf4;
use burnish_models::ModelConfig;
use serde::Serialize;

use super::work::{AttentionSizes, Product};

/// The sizes of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sizes {
    /// Rows of tokens.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// A token sees this many, itself included.
    pub window: Option<usize>,
    /// The linear layers of a block by shape.
    pub linears: Vec<LinearShape>,
    /// Weights of the model.
    pub weights: usize,
}

/// Linear layers of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinearShape {
    /// Which ones.
    pub names: Vec<&'static str>,
    /// Features after them.
    pub outputs: usize,
    /// Features before them.
    pub inputs: usize,
}

/// Rows for which products with the head are measured: the logits of all tokens together would not fit.
const HEAD_ROWS: usize = 1024;

/// The linear layers of a block with outputs and inputs.
fn linears(config: &ModelConfig) -> Vec<(&'static str, usize, usize)> {
    let parts = config.family.parts.iter().filter(|part| part.role.is_linear());
    parts
        .map(|part| {
            let shape = part.role.shape(config);
            (part.name.rsplit('.').next().unwrap_or(part.name), shape[0], shape[1])
        })
        .collect()
}

impl Sizes {
    /// The linear layers whose rows are whole blocks of NF4.
    pub fn packed_linears(&self) -> impl Iterator<Item = &LinearShape> {
        self.linears.iter().filter(|shape| shape.inputs.is_multiple_of(nf4::BLOCK))
    }

    /// Sizes of a step of that model.
    pub fn new(config: &ModelConfig, batch: usize, length: usize, rank: usize) -> Self {
        let mut shapes: Vec<LinearShape> = Vec::new();
        for (name, outputs, inputs) in linears(config) {
            match shapes.iter_mut().find(|shape| (shape.outputs, shape.inputs) == (outputs, inputs)) {
                Some(shape) => shape.names.push(name),
                None => shapes.push(LinearShape { names: vec![name], outputs, inputs }),
            }
        }
        Self {
            batch,
            length,
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocabulary: config.vocab_size,
            rank,
            window: config.sliding_window,
            linears: shapes,
            weights: config.parameter_count(),
        }
    }

    /// Sizes of a smaller model, its linear layers grouped as here, so that each group finds its own.
    #[must_use]
    pub fn grouped_as(&self, config: &ModelConfig, batch: usize, length: usize) -> Self {
        let all = linears(config);
        let small = |shape: &LinearShape| {
            let found = all.iter().find(|(name, _, _)| shape.names.first() == Some(name));
            let (outputs, inputs) = found.map_or((shape.outputs, shape.inputs), |(_, outputs, inputs)| (*outputs, *inputs));
            LinearShape { names: shape.names.clone(), outputs, inputs }
        };
        Self { linears: self.linears.iter().map(small).collect(), ..Self::new(config, batch, length, self.rank) }
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.batch * self.length
    }

    /// Rows of a measured product with the head.
    pub fn head_rows(&self) -> usize {
        self.tokens().min(HEAD_ROWS)
    }

    /// The product of a measured head.
    pub fn head_product(&self) -> Product {
        Product { rows: self.head_rows(), outputs: self.vocabulary, inputs: self.hidden }
    }

    /// The attention of a block.
    pub fn attention(&self) -> AttentionSizes {
        AttentionSizes {
            batch: self.batch,
            length: self.length,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_dim: self.head_dim,
            window: self.window,
        }
    }

    /// Weights of the linear layers of a block.
    pub fn block_weights(&self) -> usize {
        self.linears.iter().map(|shape| shape.names.len() * shape.outputs * shape.inputs).sum()
    }

    /// Elements of all adapters.
    pub fn adapter_elements(&self) -> usize {
        let block = self.linears.iter().map(|shape| shape.names.len() * (shape.outputs + shape.inputs));
        self.layers * self.rank * block.sum::<usize>()
    }

    /// FLOPs of a step's model, by part. The base is frozen, so a linear layer has two products and not three; adapters, norms
    /// and activations are left out, and attention's backward counts four products of its forward's size, without the
    /// recomputed ones.
    pub fn model_flops(&self) -> ModelFlops {
        let tokens = self.tokens() as f64;
        ModelFlops {
            linears: 4.0 * tokens * (self.layers * self.block_weights()) as f64,
            attention: 3.0 * self.layers as f64 * self.attention().forward_flops(),
            head: 4.0 * tokens * self.vocabulary as f64 * self.hidden as f64,
        }
    }
}

/// FLOPs of a step's model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ModelFlops {
    /// Products with frozen weights of the blocks, forward and backward.
    pub linears: f64,
    /// Scores and their products with the values, forward and backward.
    pub attention: f64,
    /// Logits, and the gradient of the hidden states.
    pub head: f64,
}

impl ModelFlops {
    /// All of them.
    pub fn total(self) -> f64 {
        self.linears + self.attention + self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    fn one() -> Sizes {
        Sizes::new(&Shape::open("llama-3.2-1b").unwrap().config, 4, 2048, 16)
    }

    #[test]
    fn linear_layers_are_grouped_by_shape() {
        let groups: Vec<(Vec<&str>, usize, usize)> =
            one().linears.into_iter().map(|shape| (shape.names, shape.outputs, shape.inputs)).collect();
        assert_eq!(
            groups,
            [
                (vec!["q_proj", "o_proj"], 2048, 2048),
                (vec!["k_proj", "v_proj"], 512, 2048),
                (vec!["gate_proj", "up_proj"], 8192, 2048),
                (vec!["down_proj"], 2048, 8192),
            ]
        );
    }

    #[test]
    fn a_shrunk_model_has_the_same_groups() {
        let full = one();
        let shrunk = Shape::open("llama-3.2-1b").unwrap().shrunk(1);
        let small = full.grouped_as(&shrunk.config, 1, 128);
        assert_eq!(small.linears.len(), full.linears.len());
        assert_eq!((small.linears[1].outputs, small.linears[1].inputs), (64, 256));
        assert_eq!(small.linears[2].names, ["gate_proj", "up_proj"]);
    }

    #[test]
    fn flops_are_four_times_weights_and_tokens() {
        let sizes = one();
        let weights = (sizes.layers * sizes.block_weights()) as f64;
        assert_eq!(sizes.layers * sizes.block_weights(), 973_078_528);
        let flops = sizes.model_flops();
        assert!((flops.linears / (4.0 * weights * 8192.0) - 1.0).abs() < 1e-12);
        assert!((flops.head / (4.0 * 128_256.0 * 2048.0 * 8192.0) - 1.0).abs() < 1e-12);
        let pairs = 2048.0 * 2049.0 / 2.0;
        assert!((flops.attention / (12.0 * 16.0 * 4.0 * 32.0 * 64.0 * pairs) - 1.0).abs() < 1e-12);
        // 45.8k tokens/s are 227 TFLOP/s by 4·N a token; attention adds a little.
        let rate = flops.total() * 45_800.0 / 8192.0;
        assert!((2.2e14..2.6e14).contains(&rate), "{rate}");
    }

    #[test]
    fn adapters_are_counted() {
        // Per block 16·(2·4096 + 2·2560 + 2·10240 + 10240).
        assert_eq!(one().adapter_elements(), 16 * 16 * (8192 + 5120 + 20480 + 10240));
    }
}
