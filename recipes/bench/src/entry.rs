//! The rows of the comparison: every operation of a training step at the model's sizes.

use serde::Serialize;

use super::sizes::{LinearShape, Sizes};
use super::work::{self, Product, Work};

/// An operation of `burnish-kernels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Kernel {
    RmsNorm,
    Swiglu,
    Rotary,
    Attention,
    Linear,
    LoraLinear,
    PackedLinear,
    LinearCrossEntropy,
    Adamw,
}

impl Kernel {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::RmsNorm,
        Self::Swiglu,
        Self::Rotary,
        Self::Attention,
        Self::Linear,
        Self::LoraLinear,
        Self::PackedLinear,
        Self::LinearCrossEntropy,
        Self::Adamw,
    ];

    /// As `--kernels` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RmsNorm => "rms_norm",
            Self::Swiglu => "swiglu",
            Self::Rotary => "rotary",
            Self::Attention => "attention",
            Self::Linear => "linear",
            Self::LoraLinear => "lora_linear",
            Self::PackedLinear => "packed_linear",
            Self::LinearCrossEntropy => "linear_cross_entropy",
            Self::Adamw => "adamw",
        }
    }
}

/// Which way an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// The result.
    Forward,
    /// The gradients.
    Backward,
    /// Both at once, or neither.
    Whole,
}

impl Pass {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Whole => "whole",
        }
    }
}

/// An operation at its sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The operation.
    pub kernel: Kernel,
    /// Forward or backward.
    pub pass: Pass,
    /// Its sizes, and the parts of the model that have them.
    pub shape: String,
    /// The least that it must do.
    pub work: Work,
    /// How often a block of a LoRA step runs it.
    pub per_block: usize,
    /// How often a LoRA step runs it outside of blocks.
    pub per_step: usize,
}

impl Entry {
    /// How often a LoRA step of so many blocks runs it.
    pub fn runs(&self, layers: usize) -> usize {
        self.per_block * layers + self.per_step
    }

    /// For tables and plots.
    pub fn title(&self) -> String {
        match self.pass {
            Pass::Whole => format!("{} {}", self.kernel.name(), self.shape),
            pass => format!("{} {} {}", self.kernel.name(), pass.name(), self.shape),
        }
    }
}

/// The rows of an operation, elements of `element` bytes. The builders of inputs and launches keep this order.
pub fn entries(kernel: Kernel, sizes: &Sizes, element: usize) -> Vec<Entry> {
    let (tokens, hidden, inner) = (sizes.tokens(), sizes.hidden, sizes.intermediate);
    let row = |pass, shape: &str, work, per_block, per_step| Entry {
        kernel,
        pass,
        shape: shape.to_owned(),
        work,
        per_block,
        per_step,
    };
    let both = |shape: String, forward: Work, backward: Work, per_block, per_step| {
        vec![
            row(Pass::Forward, &shape, forward, per_block, per_step),
            row(Pass::Backward, &shape, backward, per_block, per_step),
        ]
    };
    match kernel {
        Kernel::RmsNorm => {
            // The weight is one row among thousands, and left out.
            let of = |count| work::passes(count, tokens, hidden, element);
            let shape = format!("{tokens}×{hidden}");
            // The first norm of a step has nothing to add; every other one adds the output of the layer before it, and is
            // recomputed for the backward of the layers after it.
            let mut rows = vec![row(Pass::Forward, &shape, of(2), 2, 1), row(Pass::Backward, &shape, of(3), 0, 1)];
            rows.extend(both(format!("{shape} + residual"), of(4), of(4), 2, 0));
            rows
        }
        Kernel::Swiglu => {
            let (shape, of) = (format!("{tokens}×{inner}"), |count| work::passes(count, tokens, inner, element));
            // Forward, and once more for the backward of the layer after it.
            vec![row(Pass::Forward, &shape, of(3), 2, 0), row(Pass::Backward, &shape, of(5), 1, 0)]
        }
        Kernel::Rotary => {
            let work = work::rotary(tokens, sizes.heads + sizes.key_value_heads, sizes.head_dim, element);
            let shape = format!("{tokens}×{}+{}×{}", sizes.heads, sizes.key_value_heads, sizes.head_dim);
            // The backward is the same launch, rotating backwards.
            vec![row(Pass::Forward, &shape, work, 2, 0)]
        }
        Kernel::Attention => {
            let attention = sizes.attention();
            let shape = format!(
                "{}×{}, {}/{} heads of {}",
                sizes.batch, sizes.length, sizes.heads, sizes.key_value_heads, sizes.head_dim
            );
            let mut rows = both(shape, attention.forward(element), attention.backward(element), 1, 0);
            let shape = format!(
                "decode {}×1 over {}, {}/{} heads of {}",
                sizes.batch, sizes.length, sizes.heads, sizes.key_value_heads, sizes.head_dim
            );
            rows.push(row(Pass::Whole, &shape, attention.decode(element), 0, 0));
            rows
        }
        Kernel::Linear => {
            let mut rows = Vec::new();
            for shape in &sizes.linears {
                let work = product(sizes, shape).work(element);
                rows.extend(both(described(shape, tokens), work, work, 0, 0));
            }
            let head = sizes.head_product();
            let shape = format!("lm_head {}×{hidden}→{}", head.rows, sizes.vocabulary);
            rows.extend(both(shape, head.work(element), head.work(element), 0, 0));
            rows
        }
        Kernel::LoraLinear => {
            let of = |shape: &LinearShape| {
                let (product, rank) = (product(sizes, shape), sizes.rank);
                let (forward, backward) = (product.lora_forward(rank, element), product.lora_backward(rank, element));
                both(format!("{}, rank {rank}", described(shape, tokens)), forward, backward, shape.names.len(), 0)
            };
            sizes.linears.iter().flat_map(of).collect()
        }
        Kernel::PackedLinear => {
            let of = |shape: &LinearShape| {
                let many = product(sizes, shape);
                let work = many.packed_work(element, NF4_BITS);
                let mut rows = both(format!("nf4 {}", described(shape, tokens)), work, work, 0, 0);
                let one = Product { rows: 1, ..many }.packed_work(element, NF4_BITS);
                rows.push(row(Pass::Whole, &format!("nf4 decode {}", described(shape, 1)), one, 0, 0));
                rows
            };
            sizes.packed_linears().flat_map(of).collect()
        }
        Kernel::LinearCrossEntropy => {
            let work = work::linear_cross_entropy(tokens, hidden, sizes.vocabulary, element);
            vec![row(Pass::Whole, &format!("{tokens}×{hidden}→{}", sizes.vocabulary), work, 0, 1)]
        }
        Kernel::Adamw => {
            let elements = sizes.adapter_elements();
            vec![row(Pass::Whole, &format!("{elements} elements, f32"), work::adamw(elements), 0, 1)]
        }
    }
}

/// Bits of a weight of NF4: four, and a scale of an f32 for 64 of them.
const NF4_BITS: f64 = 4.5;

/// The product of a linear layer over all tokens.
pub fn product(sizes: &Sizes, shape: &LinearShape) -> Product {
    Product { rows: sizes.tokens(), outputs: shape.outputs, inputs: shape.inputs }
}

fn described(shape: &LinearShape, rows: usize) -> String {
    let names: Vec<&str> = shape.names.iter().map(|name| name.trim_end_matches("_proj")).collect();
    format!("{} {rows}×{}→{}", names.join(","), shape.inputs, shape.outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn a_step_runs_seven_adapted_layers_a_block() {
        let sizes = Sizes::new(&Shape::open("llama-3.2-1b").unwrap().config, 4, 2048, 16);
        let runs = |kernel: Kernel, pass: Pass| -> usize {
            entries(kernel, &sizes, 2).iter().filter(|entry| entry.pass == pass).map(|entry| entry.runs(16)).sum()
        };
        assert_eq!(runs(Kernel::LoraLinear, Pass::Forward), 7 * 16);
        assert_eq!(runs(Kernel::RmsNorm, Pass::Backward), 2 * 16 + 1);
        assert_eq!(runs(Kernel::Linear, Pass::Forward), 0);
        assert_eq!(runs(Kernel::LinearCrossEntropy, Pass::Whole), 1);
        // Forward, and the inverse rotation of the backward.
        assert_eq!(runs(Kernel::Rotary, Pass::Forward), 2 * 16);
    }

    #[test]
    fn the_work_of_a_step_is_the_models() {
        let sizes = Sizes::new(&Shape::open("llama-3.1-8b").unwrap().config, 1, 512, 8);
        let frozen: f64 =
            sizes.linears.iter().map(|shape| 2.0 * product(&sizes, shape).flops() * shape.names.len() as f64).sum();
        assert!((frozen * 32.0 / sizes.model_flops().linears - 1.0).abs() < 1e-12);
        let titles: Vec<String> = entries(Kernel::Linear, &sizes, 2).iter().map(Entry::title).collect();
        assert_eq!(titles[0], "linear forward q,o 512×4096→4096");
        assert_eq!(titles.last().unwrap(), "linear backward lm_head 512×4096→128256");
    }
}
