//! A fused operation with its inputs, to be computed on a device and compared with a reference.

use burnish_kernels::glu::Activation;
use burnish_kernels::packed::Packed;
use burnish_kernels::{AdamWStep, AttentionOptions, Dropout, TokenDraw};

/// A fused operation with its inputs.
#[derive(Debug, Clone)]
pub struct KernelCase {
    /// Its name in reports.
    pub name: String,
    /// The operation.
    pub operation: Operation,
    /// Its tensors, in the order that [`Operation`] states.
    pub inputs: Vec<Matrix>,
    /// Row numbers or labels, where the operation has some.
    pub indices: Vec<i32>,
    /// Seed of the gradients that its results receive.
    pub seed: u32,
}

/// An input. Vectors are one row; tensors of higher rank have their last dimensions joined.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Its name in the operation's formula.
    pub name: &'static str,
    /// Rows and columns.
    pub dims: [usize; 2],
    /// Row-major; bf16 and f16 represent them exactly, see [`numbers`].
    pub values: Vec<f32>,
    /// Whether it is f32 in every compute dtype.
    pub is_f32: bool,
    /// Whether its gradient is computed.
    pub has_gradient: bool,
}

/// What is computed.
#[derive(Debug, Clone)]
pub enum Operation {
    /// An operation of a model, with gradients.
    Layer(Layer),
    /// An operation of the optimizer.
    Update(Update),
}

/// An operation of a model.
#[derive(Debug, Clone)]
pub enum Layer {
    /// `x`, `weight`.
    RmsNorm,
    /// `x`, `residual`, `weight`.
    AddRmsNorm,
    /// `x`, `weight`.
    ForkRmsNorm,
    /// `x`, `weight`, `bias`.
    LayerNorm,
    /// `query`, `key`, `cos`, `sin`.
    Rotary {
        /// Heads of query and key.
        heads: [usize; 2],
    },
    /// `gate`, `up`.
    Glu(Activation),
    /// `x`.
    Dropout(Dropout),
    /// `query`, `key`, `value`, whose rows are the positions of one sequence; indices are segment ids, if there are any.
    Attention {
        /// Heads of query, and of key and value.
        heads: [usize; 2],
        /// How it attends.
        options: AttentionOptions,
    },
    /// `x`, `weight`.
    Linear,
    /// `x`.
    PackedLinear(Packed),
    /// Indices are rows of the weight.
    PackedRows(Packed),
    /// `x`, `weight`, `lora_a`, `lora_b`.
    LoraLinear {
        /// Factor on the update.
        scale: f64,
        /// Dropout of the adapter's input.
        dropout: Option<Dropout>,
    },
    /// `x`, `lora_a`: `scale · dropout(x) Aᵀ`.
    LoraHidden {
        /// Factor on the update.
        scale: f64,
        /// Dropout of the adapter's input.
        dropout: Option<Dropout>,
    },
    /// `x`, `lora_a`, `lora_b`.
    PackedLoraLinear {
        /// The frozen weight.
        weight: Packed,
        /// Factor on the update.
        scale: f64,
        /// Dropout of the adapter's input.
        dropout: Option<Dropout>,
    },
    /// `hidden`, `weight`; indices are labels.
    CrossEntropy {
        /// Of the logits.
        cap: Option<f64>,
    },
    /// `hidden`; indices are labels.
    PackedCrossEntropy {
        /// The head.
        weight: Packed,
        /// Of the logits.
        cap: Option<f64>,
    },
    /// `x`; indices are rows.
    SelectRows,
    /// `query`, `key`, `value` as of [`Layer::Attention`], and `sinks`, one a head.
    SinkAttention {
        /// Heads of query, and of key and value.
        heads: [usize; 2],
        /// How it attends.
        options: AttentionOptions,
    },
    /// `x`, and any number of weights.
    Linears,
    /// `x`, `gate`, `up`.
    GluLinear(Activation),
    /// `x`.
    PackedLinears(Vec<Packed>),
    /// `x`.
    PackedGluLinear {
        /// Gate and up.
        weights: [Packed; 2],
        /// Of the gate.
        activation: Activation,
    },
    /// `x`, and the weights of groups that have no packed one, in their order.
    GroupedLinear(Vec<(usize, Option<Packed>)>),
    /// `x`, and a `weight` of the matrices of all groups, which have so many rows of `x`.
    StackedLinear(Vec<usize>),
    /// Two buffers, and the rows that each receives from a row on, of so many heads.
    Append {
        /// Heads of all.
        heads: usize,
        /// The first row that is written.
        start: usize,
    },
    /// `query`, `key`, `value`, `cos`, `sin`, and the two buffers that the rotated key and the value are written to.
    AppendRotated {
        /// Heads of query, and of key and value.
        heads: [usize; 2],
        /// The first row that is written.
        start: usize,
    },
    /// A buffer, of which so many rows are taken.
    Prefix(usize),
    /// Logits; the result is a column of the tokens.
    SampleTokens(TokenDraw),
}

/// An operation of the optimizer.
#[derive(Debug, Clone, Copy)]
pub enum Update {
    /// `parameter`, `gradient`, `first`, `second`, `squares`.
    AdamW(AdamWStep),
    /// `parameter`, and a gradient for each of two updates from zero moments, and `squares`.
    AdamW8bit(AdamWStep),
    /// Any matrices.
    Pack,
    /// Any matrices, which are packed before.
    Unpack,
    /// Any matrices.
    SquaredNorm,
}

/// The results, each row-major.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Computed {
    /// Computed without gradients.
    pub inference: Vec<Vec<f32>>,
    /// Computed with gradients; empty if no input has one.
    pub training: Vec<Vec<f32>>,
    /// The gradient of each input; empty for those that have none.
    pub gradients: Vec<Vec<f32>>,
}

impl KernelCase {
    /// Whether gradients are computed.
    pub fn has_gradients(&self) -> bool {
        self.inputs.iter().any(|input| input.has_gradient)
    }

    /// The gradient that a result of `count` elements receives.
    pub fn upstream(&self, result: usize, count: usize) -> Vec<f32> {
        numbers(count, self.seed + 1 + result as u32, 0.5)
    }
}

/// Random numbers, about normally distributed, with at most eight significant bits: the same in f32, f16 and bf16.
pub fn numbers(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    for _ in 0..8 {
        next();
    }
    let mut number = || {
        let number = (0..4).map(|_| next()).sum::<f32>() * 1.7 * scale;
        // Neither zero nor subnormal in f16, so that a result that was never written does not pass.
        let least = scale / 256.0;
        let number = if number.abs() < least { least } else { number };
        f32::from_bits(number.to_bits() & 0xffff_0000)
    };
    (0..count).map(|_| number()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_every_dtype() {
        use burnish_models::FloatType;
        let all = numbers(1000, 7, 0.1);
        for dtype in FloatType::ALL {
            let converted = dtype.convert("numbers", all.clone()).unwrap();
            assert!(converted.iter::<f32>().eq(all.iter().copied()), "{dtype}");
        }
        let mean = all.iter().sum::<f32>() / 1000.0;
        let deviation = (all.iter().map(|number| number * number).sum::<f32>() / 1000.0).sqrt();
        assert!(mean.abs() < 0.01 && (0.08..0.12).contains(&deviation), "{mean}, {deviation}");
        assert!(all.iter().all(|number| *number != 0.0) && all != numbers(1000, 8, 0.1));
    }
}
