//! The least that an operation must do: bytes that it moves, and operations of its matrix products.
//!
//! Every input is read once and every result written once, whatever an implementation does besides.

use serde::Serialize;

/// The least that an operation does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Work {
    /// Bytes of inputs and results.
    pub bytes: f64,
    /// Operations of matrix products; a multiplication and its addition are two. 0 where there are none.
    pub flops: f64,
}

/// `[rows, inputs] · [outputs, inputs]ᵀ`, or a gradient of it: all three products of these sizes cost the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Product {
    /// Tokens.
    pub rows: usize,
    /// Features after it.
    pub outputs: usize,
    /// Features before it.
    pub inputs: usize,
}

impl Product {
    /// Operations.
    pub fn flops(self) -> f64 {
        2.0 * area(self.rows, self.outputs) * self.inputs as f64
    }

    /// Of the plain product, elements of `element` bytes.
    pub fn work(self, element: usize) -> Work {
        let elements = area(self.rows, self.inputs) + area(self.outputs, self.inputs) + area(self.rows, self.outputs);
        Work { bytes: elements * element as f64, flops: self.flops() }
    }

    /// With a weight of so many bits an element.
    pub fn packed_work(self, element: usize, bits: f64) -> Work {
        let elements = area(self.rows, self.inputs) + area(self.rows, self.outputs);
        Work { bytes: elements * element as f64 + area(self.outputs, self.inputs) * bits / 8.0, flops: self.flops() }
    }

    /// With an adapter of f32 factors: two products of the rank besides. `x·Aᵀ` is kept for the backward.
    pub fn lora_forward(self, rank: usize, element: usize) -> Work {
        let plain = self.work(element);
        let factors = area(rank, self.inputs + self.outputs);
        let moved = factors * FACTOR_BYTES + area(self.rows, rank) * element as f64;
        Work { bytes: plain.bytes + moved, flops: plain.flops + 2.0 * self.rows as f64 * factors }
    }

    /// Reads x, dy, W, A, B and `h = x·Aᵀ`; writes dx, dA, dB. The products of the rank are `g = dy·B`, `g·A`, `gᵀ·x` and
    /// `dyᵀ·h`.
    pub fn lora_backward(self, rank: usize, element: usize) -> Work {
        let plain = self.work(element);
        let factors = area(rank, self.inputs + self.outputs);
        let again = (area(self.rows, self.inputs) + area(self.rows, rank)) * element as f64;
        Work {
            bytes: plain.bytes + again + 2.0 * factors * FACTOR_BYTES,
            flops: plain.flops + 4.0 * self.rows as f64 * factors,
        }
    }
}

/// Adapters and their gradients are f32 whatever is computed in.
const FACTOR_BYTES: f64 = size_of::<f32>() as f64;

fn area(rows: usize, columns: usize) -> f64 {
    rows as f64 * columns as f64
}

/// `count` passes over `[rows, features]`, without products.
pub fn passes(count: usize, rows: usize, features: usize, element: usize) -> Work {
    Work { bytes: count as f64 * area(rows, features) * element as f64, flops: 0.0 }
}

/// Rotates `[tokens, heads, head_dim]`, heads of query and key together, by an f32 table of half a head a token.
pub fn rotary(tokens: usize, heads: usize, head_dim: usize, element: usize) -> Work {
    let table = area(tokens, head_dim) * size_of::<f32>() as f64;
    Work { bytes: passes(2, tokens, heads * head_dim, element).bytes + table, flops: 0.0 }
}

/// Parameter, gradient and two moments in f32; all but the gradient are written.
pub fn adamw(elements: usize) -> Work {
    Work { bytes: 7.0 * elements as f64 * size_of::<f32>() as f64, flops: 0.0 }
}

/// Loss and gradient of the hidden states: the logits, and their gradient times the head. The logits themselves need not move.
pub fn linear_cross_entropy(tokens: usize, hidden: usize, vocabulary: usize, element: usize) -> Work {
    let product = Product { rows: tokens, outputs: vocabulary, inputs: hidden };
    let elements = 2.0 * area(tokens, hidden) + area(vocabulary, hidden);
    let labels = (tokens * size_of::<i32>()) as f64;
    Work { bytes: elements * element as f64 + labels, flops: 2.0 * product.flops() }
}

/// Sizes of causal attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionSizes {
    /// Rows of tokens.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// A token sees this many, itself included.
    pub window: Option<usize>,
}

impl AttentionSizes {
    /// Queries times the keys that each one sees, in one head of one row.
    pub fn pairs(&self) -> f64 {
        let window = self.window.unwrap_or(self.length).min(self.length);
        let growing = area(window, window + 1) / 2.0;
        growing + area(self.length - window, window)
    }

    /// `Q·Kᵀ` and `P·V`, over the pairs that are seen.
    pub fn forward_flops(&self) -> f64 {
        4.0 * area(self.batch, self.heads) * self.head_dim as f64 * self.pairs()
    }

    fn token_elements(&self) -> (f64, f64) {
        let tokens = self.batch * self.length;
        (area(tokens, self.heads * self.head_dim), area(tokens, self.key_value_heads * self.head_dim))
    }

    /// The log-sum-exp of each query, f32.
    fn statistic_bytes(&self) -> f64 {
        area(self.batch * self.length, self.heads) * size_of::<f32>() as f64
    }

    /// Reads q, k, v; writes o and the log-sum-exp.
    pub fn forward(&self, element: usize) -> Work {
        let (query, key) = self.token_elements();
        let bytes = (2.0 * query + 2.0 * key) * element as f64 + self.statistic_bytes();
        Work { bytes, flops: self.forward_flops() }
    }

    /// A new token of each row over a cache of the row's length: reads q, k, v; writes o.
    pub fn decode(&self, element: usize) -> Work {
        let query = 2.0 * area(self.batch, self.heads * self.head_dim);
        let seen = self.window.unwrap_or(self.length).min(self.length);
        let cache = 2.0 * area(self.batch * seen, self.key_value_heads * self.head_dim);
        let flops = 4.0 * area(self.batch, self.heads) * area(self.head_dim, seen);
        Work { bytes: (query + cache) * element as f64, flops }
    }

    /// Reads q, k, v, o, do and the log-sum-exp; writes dq, dk, dv. Five products where the forward has two: the scores are
    /// recomputed, as memory for them would grow with the square of the length (Dao et al. 2022).
    pub fn backward(&self, element: usize) -> Work {
        let (query, key) = self.token_elements();
        let bytes = (4.0 * query + 4.0 * key) * element as f64 + self.statistic_bytes();
        Work { bytes, flops: 2.5 * self.forward_flops() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} against {b}");
    }

    #[test]
    fn a_product_moves_three_matrices() {
        let product = Product { rows: 3, outputs: 5, inputs: 7 };
        close(product.flops(), 2.0 * 3.0 * 5.0 * 7.0);
        close(product.work(2).bytes, 2.0 * (3.0 * 7.0 + 5.0 * 7.0 + 3.0 * 5.0));
    }

    #[test]
    fn an_adapter_adds_products_of_its_rank() {
        let product = Product { rows: 3, outputs: 5, inputs: 7 };
        let (forward, backward) = (product.lora_forward(2, 2), product.lora_backward(2, 2));
        close(forward.flops - product.flops(), 2.0 * (3.0 * 7.0 * 2.0 + 3.0 * 2.0 * 5.0));
        close(forward.bytes - product.work(2).bytes, 4.0 * 2.0 * 12.0 + 2.0 * 3.0 * 2.0);
        // dy·B and dyᵀ·h over the outputs; g·A and gᵀ·x over the inputs.
        close(backward.flops - product.flops(), 2.0 * 3.0 * 2.0 * (2.0 * 5.0 + 2.0 * 7.0));
        // x, W, dy, h in and dx out; A, B in and dA, dB out.
        close(backward.bytes, 2.0 * (2.0 * 21.0 + 35.0 + 15.0 + 6.0) + 4.0 * 2.0 * 2.0 * 12.0);
    }

    #[test]
    fn causal_pairs_are_half_of_the_square_and_windows_bound_them() {
        let mut sizes = AttentionSizes { batch: 2, length: 4, heads: 6, key_value_heads: 3, head_dim: 8, window: None };
        close(sizes.pairs(), 10.0);
        close(sizes.forward_flops(), 4.0 * 2.0 * 6.0 * 8.0 * 10.0);
        sizes.window = Some(2);
        close(sizes.pairs(), 1.0 + 2.0 + 2.0 + 2.0);
        sizes.window = Some(9);
        close(sizes.pairs(), 10.0);
        close(sizes.forward(2).bytes, 2.0 * 8.0 * (2.0 * 48.0 + 2.0 * 24.0) + 4.0 * 8.0 * 6.0);
        close(sizes.backward(2).flops, 2.5 * sizes.forward(2).flops);
    }

    #[test]
    fn element_wise_work_is_its_bytes() {
        close(passes(3, 4, 5, 2).bytes, 120.0);
        close(adamw(10).bytes, 280.0);
        close(rotary(4, 2, 8, 2).bytes, 2.0 * 4.0 * 16.0 * 2.0 + 4.0 * 8.0 * 4.0);
        let loss = linear_cross_entropy(3, 5, 7, 4);
        close(loss.bytes, 4.0 * (2.0 * 15.0 + 35.0) + 12.0);
        close(loss.flops, 4.0 * 3.0 * 5.0 * 7.0);
    }
}
