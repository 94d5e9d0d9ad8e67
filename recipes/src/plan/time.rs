//! The time of a step by a chip's figures. **A prediction**: the best case of a formula, measured on no chip.

use std::fmt;

use burnish_bench::sizes::Sizes;
use burnish_lora::attach::adapted_layers;
use burnish_memory::Memory;
use burnish_models::ModelConfig;
use serde::Serialize;

use super::chip::Rates;
use crate::config::{FineTuneType, TrainConfig};

/// The time of an optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTime {
    /// What it is.
    pub label: &'static str,
    /// How it is computed.
    pub formula: &'static str,
    /// The chip.
    pub chip: String,
    /// Float operations of a step.
    pub flops: f64,
    /// The chip's rate in TFLOP/s.
    pub tflops: f64,
    /// The fewest bytes that a step moves.
    pub bytes: f64,
    /// The chip's bandwidth in GB/s.
    pub bandwidth: f64,
    /// The time in seconds.
    pub seconds: f64,
    /// Tokens of the step over that time.
    pub tokens_per_second: f64,
}

const LABEL: &str = "a prediction, measured on no chip: real steps take longer";
const FORMULA: &str = "the longer of float operations over the chip's rate and bytes over its bandwidth";

/// What a step does, by tokens of its micro-batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub config: &'a TrainConfig,
    pub model: &'a ModelConfig,
    pub memory: &'a Memory,
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Tokens of a pass without gradients.
    pub without_gradients: usize,
}

impl Pass<'_> {
    /// Float operations of a micro-batch: a product with a matrix takes 2 for each token and weight, forward, for the gradient of its
    /// input, for that of its weights if those are trained, and again if blocks are checkpointed.
    fn flops(&self) -> f64 {
        let lora = self.config.lora();
        let rows = self.tokens.div_ceil(self.length.max(1)).max(1);
        let sizes = Sizes::new(self.model, rows, self.length.min(self.tokens).max(1), lora.rank);
        let full = self.config.fine_tune_type == FineTuneType::Full;
        let (layers, tokens) = (sizes.layers as f64, self.tokens as f64);
        let kept = if full || self.config.num_layers == 0 { layers } else { layers.min(self.config.num_layers as f64) };
        // Forward of a block, and of the head.
        let linear = 2.0 * tokens * sizes.block_weights() as f64;
        let attention = sizes.attention().forward_flops();
        let head = 2.0 * tokens * sizes.vocabulary as f64 * sizes.hidden as f64;
        let adapted = if full { Vec::new() } else { adapted_layers(&lora, self.model) };
        let adapters: usize = adapted.iter().map(|layer| layer.used * layer.elements() / layer.copies).sum();
        // Of a block that is computed again, the last product is left out where it has an adapter.
        let last = [self.model.hidden_size, self.model.intermediate_size];
        let is_unread = adapted.iter().any(|layer| layer.copies == 1 && [layer.outputs, layer.inputs] == last);
        let unread = if is_unread { 2.0 * tokens * last.iter().product::<usize>() as f64 } else { 0.0 };
        let again = if self.config.grad_checkpoint { linear + attention - unread } else { 0.0 };
        let of_weights = if full { linear } else { 0.0 };
        let forward = layers * (linear + attention) + head;
        let backward = kept * (linear + 2.0 * attention + of_weights + again) + if full { 2.0 * head } else { head };
        let without = self.without_gradients as f64 / tokens.max(1.0);
        forward * (1.0 + without) + backward + 6.0 * tokens * adapters as f64
    }

    /// The fewest bytes of a micro-batch: weights once a pass, and what is kept written and read.
    fn bytes(&self) -> f64 {
        let passes = 2 + usize::from(self.config.grad_checkpoint) + usize::from(self.without_gradients > 0);
        passes as f64 * self.memory.weights as f64 + 2.0 * self.memory.activations as f64
    }

    /// The time of an optimizer step on a chip.
    pub fn on(&self, chip: &Rates) -> StepTime {
        let micro_batches = self.config.grad_accumulation_steps as f64;
        // The update reads parameters, gradients and moments, and writes all but the gradients.
        let update = 2.0 * (self.memory.adapters + self.memory.optimizer) as f64 + self.memory.gradients as f64;
        let (flops, bytes) = (micro_batches * self.flops(), micro_batches * self.bytes() + update);
        let seconds = (flops / (chip.tflops * 1e12)).max(bytes / (chip.bandwidth * 1e9));
        StepTime {
            label: LABEL,
            formula: FORMULA,
            chip: chip.name.clone(),
            flops,
            tflops: chip.tflops,
            bytes,
            bandwidth: chip.bandwidth,
            seconds,
            tokens_per_second: micro_batches * self.tokens as f64 / seconds,
        }
    }
}

impl fmt::Display for StepTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chip, seconds, tokens_per_second, tflops, bandwidth, .. } = self;
        let (work, moved) = (self.flops / 1e12, self.bytes / 1e9);
        write!(f, "step time: {seconds:.2} s, {tokens_per_second:.0} tokens/s at best on {chip} = ")?;
        write!(f, "max({work:.1} TFLOP / {tflops:.2} TFLOP/s, {moved:.1} GB / {bandwidth:.0} GB/s); {}", self.label)
    }
}

#[cfg(test)]
mod tests {
    use burnish_bench::shape::Shape;
    use burnish_memory::{Place, Step, Trained};

    use super::*;

    fn time(config: &TrainConfig, tokens: usize) -> StepTime {
        let model = Shape::open("llama-3.2-1b").unwrap().config;
        let lora = config.lora();
        let memory = Step { tokens, ..Step::new(&model, Trained::Adapters(&lora), 2_471_628_800, Place::Device) }.memory();
        let chip = Rates { name: "chip".to_owned(), tflops: 10.0, bandwidth: 400.0 };
        Pass { config, model: &model, memory: &memory, tokens, length: 2048, without_gradients: 0 }.on(&chip)
    }

    #[test]
    fn products_are_counted_for_tokens_and_weights() {
        let config = TrainConfig::default();
        let one = time(&config, 2048);
        // 973 M weights of blocks and 263 M of the head, forward and backward; attention and adapters add a twentieth to a tenth.
        let least = 4.0 * 2048.0 * (973_078_528.0 + 128_256.0 * 2048.0);
        assert!((1.05..1.10).contains(&(one.flops / least)), "{}", one.flops / least);
        assert!((one.seconds - one.flops / 1e13).abs() < 1e-9 && one.to_string().contains("a prediction"), "{one}");
        let twice = time(&TrainConfig { grad_accumulation_steps: 2, ..config.clone() }, 2048);
        assert!((twice.flops / one.flops - 2.0).abs() < 1e-9 && twice.seconds > one.seconds);
        let again = time(&TrainConfig { grad_checkpoint: true, ..config.clone() }, 2048);
        // All products of the blocks again but for the last one of each, which has 268 M weights in all.
        assert!((1.25..1.35).contains(&(again.flops / one.flops)), "{}", again.flops / one.flops);
        let last = time(&TrainConfig { num_layers: 4, ..config.clone() }, 2048);
        assert!(last.flops < one.flops);
        // One token moves the weights, and computes little.
        let moving = time(&config, 1);
        assert!((moving.seconds - moving.bytes / 400e9).abs() < 1e-12 && moving.bytes > 2.0 * 2_471_628_800.0);
    }
}
