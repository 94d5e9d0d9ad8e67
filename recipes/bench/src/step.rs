//! A whole training step of LoRA, or of full fine-tuning: forward, backward, update.

use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::DType;
use burnish_engine::{
    AdamWConfig, Batch, Checkpointing, IGNORE, LossScale, ModelTrainer, MomentType, Numbers, StepItem, Trainer, Training,
    Verdict,
};
use burnish_kernels::FusedBackend;
use burnish_lora::{LoraConfig, attach};
use burnish_memory::{Memory, Place, Trained};
use burnish_models::{FloatType, LoadOptions, ModelConfig, Quantization};
use serde::Serialize;

use super::efficiency::Efficiency;
use super::peak::{MemoryWatch, Peak, live_peak};
use super::random_model::random_model;
use super::setup::Splitmix;
use super::sizes::Sizes;
use super::stopwatch::{Pace, median, milliseconds, wait};

/// A step, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StepOutcome {
    /// It was measured.
    Measured(Box<StepRow>),
    /// It was not.
    Failed {
        /// Why.
        error: String,
    },
}

impl StepOutcome {
    /// What was measured.
    pub fn row(&self) -> Option<&StepRow> {
        match self {
            Self::Measured(row) => Some(row),
            Self::Failed { .. } => None,
        }
    }
}

/// What was measured of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRow {
    /// The first step, with all that is compiled and tuned in it.
    pub first_ms: f64,
    /// Median of the steps after it.
    pub ms: f64,
    /// Steps measured.
    pub samples: usize,
    /// At the median.
    pub tokens_per_second: f64,
    /// Loss of the first step and of the last.
    pub losses: [f64; 2],
    /// Most memory that was held.
    pub peak: Option<Peak>,
    /// That over the least that a step needs.
    pub peak_share: Option<f64>,
    /// Most memory of live tensors during a step, in bytes, where the backend reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_bytes: Option<u64>,
    /// Whether blocks were checkpointed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub grad_checkpoint: bool,
    /// What its weights take, where some are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Whether all weights were trained.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Whether moments were stored in eight bits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adamw8bit: bool,
    /// Dropout of the adapters.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// The last blocks that had adapters, if not all had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_layers: Option<usize>,
    /// What attention takes of it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionInStep>,
    /// The step beside its matrix products.
    pub efficiency: Option<Efficiency>,
    /// Getting the random model to the device.
    pub load_ms: f64,
}

/// Rows leave out a dropout of 0.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value <= 0.0
}

/// What attention takes of a step: a step of as many tokens in short rows does the same work but for attention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AttentionInStep {
    /// Tokens of a short row.
    pub short_length: usize,
    /// Median time of a step of short rows.
    pub short_ms: f64,
    /// Forward and backward of one layer.
    pub layer_ms: f64,
}

/// Tokens of a short row.
const SHORT: usize = 64;

/// The sizes of a step of as many tokens in short rows; none where that does not leave out most of the attention.
fn short_rows(sizes: &Sizes) -> Option<Sizes> {
    let is_long = sizes.length >= 8 * SHORT && sizes.length.is_multiple_of(SHORT);
    is_long.then(|| Sizes { batch: sizes.tokens() / SHORT, length: SHORT, ..sizes.clone() })
}

/// Attention's time of a layer from the times of both steps. Short rows have some attention too: by its operations.
fn attention_in_step(long: &Sizes, long_ms: f64, short: &Sizes, short_ms: f64) -> AttentionInStep {
    let left = short.attention().forward_flops() / long.attention().forward_flops();
    let layer_ms = (long_ms - short_ms) / (1.0 - left) / long.layers as f64;
    AttentionInStep { short_length: short.length, short_ms, layer_ms }
}

/// Seeds tokens and adapters.
const SEED: u64 = 42;

const LEARNING_RATE: f64 = 1e-4;

/// Steps whose live memory is followed: samples of one may miss the moment at which most is alive, which lasts for a launch or two.
const FOLLOWED: usize = 4;

/// What a step does, and what is measured of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepParts {
    /// Whether attention's share is measured.
    pub attention: bool,
    /// How blocks are checkpointed, if they are.
    pub checkpointing: Option<Checkpointing>,
    /// How matrices are stored.
    pub quantization: Quantization,
    /// Whether embedding and head are packed too.
    pub quantize_embedding: bool,
    /// Whether all weights are trained, instead of adapters.
    pub full: bool,
    /// How the optimizer stores moments.
    pub moments: MomentType,
    /// Dropout of the adapters.
    pub dropout: f64,
    /// The last blocks that have adapters, if not all have.
    pub num_layers: Option<usize>,
}

impl StepParts {
    /// The adapters of a step.
    fn lora(self, sizes: &Sizes) -> LoraConfig {
        let (rank, dropout, num_layers) = (sizes.rank, self.dropout, self.num_layers);
        LoraConfig { rank, alpha: 2.0 * rank as f64, dropout, num_layers, ..LoraConfig::default() }
    }

    /// What a step takes, by the formulas, with weights of so many bytes.
    fn memory(self, config: &ModelConfig, sizes: &Sizes, dtype: FloatType, weights: u64) -> Memory {
        let lora = self.lora(sizes);
        let trained = if self.full { Trained::All } else { Trained::Adapters(&lora) };
        let step = burnish_memory::Step {
            element: DType::from(dtype).size(),
            tokens: sizes.tokens(),
            checkpointing: self.checkpointing,
            moments: self.moments,
            has_dropout: self.dropout > 0.0,
            ..burnish_memory::Step::new(config, trained, weights, Place::Device)
        };
        step.memory()
    }
}

/// Trains the model for some steps, always on the same random tokens, and then on short rows where attention is asked for.
///
/// # Errors
/// What broke on the device.
pub fn measure<B: FusedBackend>(
    config: &ModelConfig,
    sizes: &Sizes,
    dtype: FloatType,
    device: &B::Device,
    pace: &Pace,
    parts: StepParts,
) -> Result<StepRow> {
    let started = Instant::now();
    let StepParts { quantization, quantize_embedding, full, .. } = parts;
    let stored = if full { LoadOptions::trainable() } else { LoadOptions::frozen(dtype).quantized(quantization) };
    let options = LoadOptions { dtype, quantize_embedding, ..stored };
    let mut model = random_model::<Training<B>>(config, options, device)?;
    let stored = model.storage();
    if !full {
        attach(&mut model, &parts.lora(sizes), SEED, device)?;
    }
    wait::<B>(device)?;
    let load_ms = milliseconds(started.elapsed());
    let mut memory = MemoryWatch::new::<B>(device);
    let optimizer = AdamWConfig { moments: parts.moments, ..AdamWConfig::default() };
    let trainer = ModelTrainer::<B>::new(model, optimizer, device);
    let mut stepper = Stepper::new(trainer, sizes, dtype);
    stepper.item.checkpointing = parts.checkpointing;
    let (first, taken) = stepper.run(pace, || memory.look::<B>(device))?;
    let (ms, peak) = (median_ms(&taken), memory.peak());
    let mut live_bytes = None;
    for _ in 0..pace.repeats.clamp(1, FOLLOWED) {
        live_bytes = live_bytes.max(live_peak::<B>(device, || stepper.step().map(|_| ()))?);
    }
    let short = if parts.attention { short_rows(sizes) } else { None };
    let attention = match short {
        Some(short) => {
            stepper.item.batches = vec![random_batch(&short)];
            let (_, taken) = stepper.run(pace, || ())?;
            Some(attention_in_step(sizes, ms, &short, median_ms(&taken)))
        }
        None => None,
    };
    let needed = parts.memory(config, sizes, dtype, stored.bytes()).least();
    Ok(StepRow {
        first_ms: first.ms,
        ms,
        samples: taken.len(),
        tokens_per_second: sizes.tokens() as f64 / (ms / 1e3),
        losses: [first.loss, taken.last().map_or(first.loss, |taken| taken.loss)],
        peak,
        peak_share: peak.map(|peak| peak.bytes as f64 / needed as f64),
        live_bytes,
        grad_checkpoint: parts.checkpointing.is_some(),
        weights: stored.is_packed().then(|| stored.to_string()),
        full,
        adamw8bit: parts.moments == MomentType::EightBit,
        dropout: parts.dropout,
        num_layers: parts.num_layers,
        attention,
        efficiency: None,
        load_ms,
    })
}

fn median_ms(taken: &[Taken]) -> f64 {
    median(&mut taken.iter().map(|taken| taken.ms).collect::<Vec<_>>())
}

/// A step that was taken.
struct Taken {
    ms: f64,
    loss: f64,
}

/// Takes steps on one batch, as a training run does.
struct Stepper<B: FusedBackend> {
    trainer: ModelTrainer<B>,
    item: StepItem,
    loss_scale: Option<LossScale>,
}

impl<B: FusedBackend> Stepper<B> {
    fn new(mut trainer: ModelTrainer<B>, sizes: &Sizes, dtype: FloatType) -> Self {
        let batches = vec![random_batch(sizes)];
        let item = StepItem { batches, seed: SEED, ..StepItem::default() };
        trainer.use_exact_buffers();
        Self { trainer, item, loss_scale: (dtype == FloatType::F16).then(LossScale::default) }
    }

    /// The first step, and those that are measured after the warm-up.
    fn run(&mut self, pace: &Pace, mut look: impl FnMut()) -> Result<(Taken, Vec<Taken>)> {
        let mut step = || {
            let taken = self.step();
            look();
            taken
        };
        let first = step()?;
        for _ in 1..pace.warmup {
            step()?;
        }
        let (mut taken, began) = (Vec::new(), Instant::now());
        while pace.wants_more(taken.len(), began) {
            taken.push(step()?);
        }
        Ok((first, taken))
    }

    /// One step; in f16, those that overflow before it are part of its time.
    fn step(&mut self) -> Result<Taken> {
        let started = Instant::now();
        loop {
            self.item.loss_scale = self.loss_scale.as_ref().map_or(1.0, |loss_scale| loss_scale.scale);
            self.trainer.forward_backward(&self.item)?;
            self.trainer.update(LEARNING_RATE);
            let numbers = self.trainer.finish()?;
            match Verdict::of(numbers, self.loss_scale.as_mut()) {
                Verdict::Taken => return Ok(Taken { ms: milliseconds(started.elapsed()), loss: numbers.loss }),
                Verdict::Skipped => self.trainer.take_back(),
                Verdict::Broken => {
                    let Numbers { loss, grad_norm } = numbers;
                    bail!("loss {loss}, gradient norm {grad_norm}")
                }
            }
        }
    }
}

/// Rows of random tokens, one text each; all but the first of a row are learned.
pub fn random_batch(sizes: &Sizes) -> Batch {
    let (rows, length) = (sizes.batch, sizes.length);
    let mut random = Splitmix(SEED);
    let input_ids: Vec<u32> = (0..rows * length).map(|_| random.below(sizes.vocabulary) as u32).collect();
    let label = |(index, id): (usize, &u32)| if index % length == 0 { IGNORE } else { i64::from(*id) };
    Batch {
        labels: input_ids.iter().enumerate().map(label).collect(),
        position_ids: (0..rows).flat_map(|_| 0..length as u32).collect(),
        segment_ids: vec![1; rows * length],
        rows,
        length,
        tokens: rows * length,
        target_tokens: rows * (length - 1),
        input_ids,
        desirable: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use burn::backend::Flex;

    use super::*;
    use crate::shape::Shape;

    const WITH_ATTENTION: StepParts = StepParts {
        attention: true,
        checkpointing: None,
        quantization: Quantization::None,
        quantize_embedding: false,
        full: false,
        moments: MomentType::F32,
        dropout: 0.0,
        num_layers: None,
    };

    #[test]
    fn all_but_the_first_token_of_a_row_are_learned() {
        let sizes = Sizes::new(&Shape::open("llama-3.2-1b").unwrap().config, 2, 8, 16);
        let batch = random_batch(&sizes);
        assert_eq!((batch.input_ids.len(), batch.tokens, batch.target_tokens), (16, 16, 14));
        assert_eq!(batch.labels.iter().filter(|label| **label == IGNORE).count(), 2);
        assert_eq!((batch.labels[8], batch.position_ids[9], batch.segment_ids[15]), (IGNORE, 1, 1));
    }

    #[test]
    fn steps_learn_their_tokens() {
        let config = Shape::open("llama-3.2-1b").unwrap().shrunk(1).config;
        let sizes = Sizes::new(&config, 1, 16, 4);
        let pace = Pace { repeats: 4, warmup: 1, budget: Duration::from_secs(10), settle: Duration::ZERO };
        let row = measure::<Flex>(&config, &sizes, FloatType::F32, &Default::default(), &pace, WITH_ATTENTION).unwrap();
        assert!(row.losses[1] < row.losses[0] && row.samples == 4 && row.tokens_per_second > 0.0, "{row:?}");
        assert!(row.ms > 0.0 && row.first_ms > 0.0);
        // Rows of 16 tokens have no shorter ones to be compared with.
        assert_eq!(row.attention, None);
    }

    #[test]
    fn attention_is_what_short_rows_do_not_have() {
        let long = Sizes::new(&Shape::open("llama-3.2-1b").unwrap().config, 4, 2048, 16);
        let short = short_rows(&long).unwrap();
        assert_eq!((short.batch, short.length, short.tokens()), (128, 64, long.tokens()));
        // A device that takes 400 ms for all else, and a millisecond for so many operations of attention.
        let ms = |sizes: &Sizes| 400.0 + 16.0 * sizes.attention().forward_flops() / 1e10;
        let found = attention_in_step(&long, ms(&long), &short, ms(&short));
        assert!((found.layer_ms - long.attention().forward_flops() / 1e10).abs() < 1e-9, "{found:?}");
        assert_eq!(short_rows(&Sizes { length: 256, ..long.clone() }), None);
        assert_eq!(short_rows(&Sizes { length: 2000, ..long }), None);
    }

    #[test]
    fn a_long_row_is_measured_beside_short_ones() {
        let config = Shape::open("llama-3.2-1b").unwrap().shrunk(1).config;
        let sizes = Sizes::new(&config, 1, 512, 4);
        let pace = Pace { repeats: 3, warmup: 1, budget: Duration::ZERO, settle: Duration::ZERO };
        let row = measure::<Flex>(&config, &sizes, FloatType::F32, &Default::default(), &pace, WITH_ATTENTION).unwrap();
        let attention = row.attention.unwrap();
        // How long each takes is the machine's affair.
        assert!(attention.short_length == SHORT && attention.short_ms > 0.0 && attention.layer_ms.is_finite(), "{row:?}");
    }

    /// Live bytes of a step of a model whose activations take more than its weights, without and with checkpointing.
    #[cfg(feature = "emulator")]
    #[test]
    fn checkpointing_saves_memory() {
        use burnish_metal::emulator::{EmulatorDevice, MetalCpu, take_most_bytes_in_use};
        let _alone = crate::counting::COUNTING.lock();
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(&json).unwrap();
        let sizes = Sizes::new(&config, 1, 64, 4);
        let pace = Pace { repeats: 1, warmup: 1, budget: Duration::ZERO, settle: Duration::ZERO };
        let measure = |checkpointing| {
            let parts = StepParts { checkpointing, ..StepParts::default() };
            take_most_bytes_in_use();
            let row = measure::<MetalCpu>(&config, &sizes, FloatType::F32, &EmulatorDevice::Quick, &pace, parts).unwrap();
            (row, take_most_bytes_in_use())
        };
        let [(all, all_live), (kept, kept_live)] = [None, Some(Checkpointing::default())].map(measure);
        assert_eq!(kept.losses.map(f64::to_bits), all.losses.map(f64::to_bits));
        // Samples may miss the peak, and never exceed it.
        assert!((1..=all_live).contains(&all.live_bytes.unwrap()), "{all:?}");
        assert!((1..=kept_live).contains(&kept.live_bytes.unwrap()), "{kept:?}");
        let live = [all_live as f64, kept_live as f64];
        let memory = |checkpointing| {
            let parts = StepParts { checkpointing, ..StepParts::default() };
            parts.memory(&config, &sizes, FloatType::F32, 4 * sizes.weights as u64)
        };
        let least = [None, Some(Checkpointing::default())].map(|way| memory(way).least() as f64);
        println!("live {live:?}, least {least:?}");
        // So few tokens are one slice, which has gate, up, which become their gradients, their product, and its gradient.
        let slice = 4.0 * (sizes.tokens() * sizes.intermediate * 4) as f64;
        assert!(live[1] > 0.9 * least[1] && live[1] < 1.2 * least[1] + slice, "live {live:?}, least {least:?}");
        assert!(live[0] - live[1] > 0.6 * (least[0] - least[1]), "live {live:?}, least {least:?}");
    }

    #[test]
    fn all_weights_learn_the_tokens() {
        let config = Shape::open("llama-3.2-1b").unwrap().shrunk(1).config;
        let sizes = Sizes::new(&config, 1, 16, 4);
        let pace = Pace { repeats: 4, warmup: 1, budget: Duration::from_secs(10), settle: Duration::ZERO };
        let parts = StepParts { full: true, moments: MomentType::EightBit, ..StepParts::default() };
        let measure = |dtype| measure::<Flex>(&config, &sizes, dtype, &Default::default(), &pace, parts);
        let row = measure(FloatType::F32).unwrap();
        assert!(row.losses[1] < row.losses[0] && row.full && row.adamw8bit, "{row:?}");
        assert!(measure(FloatType::F16).unwrap_err().to_string().contains("expected f32"));
        let weights = 4 * sizes.weights as u64;
        let (all, weights) = (parts.memory(&config, &sizes, FloatType::F32, weights).least() as f64, weights as f64);
        assert!(all > 2.5 * weights && all < 2.6 * weights + 1e6, "{all} bytes, {weights} of weights");
    }

    /// Full fine-tuning, with matrices of a mebi-element and few tokens: moments in eight bits lower the peak by at least 5 bytes of a
    /// parameter, and the old parameters are gone when the new ones arrive.
    #[cfg(feature = "emulator")]
    #[test]
    #[ignore = "two minutes in the emulator; .ci/nightly runs it"]
    fn moments_in_eight_bits_lower_the_peak() {
        use burnish_metal::emulator::{EmulatorDevice, MetalCpu, take_most_bytes_in_use};
        let _alone = crate::counting::COUNTING.lock();
        let config = ModelConfig {
            num_hidden_layers: 2,
            vocab_size: 1024,
            hidden_size: 1024,
            intermediate_size: 1024,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 64,
            ..Shape::open("llama-3.2-1b").unwrap().shrunk(1).config
        };
        let sizes = Sizes::new(&config, 1, 4, 4);
        let pace = Pace { repeats: 1, warmup: 1, budget: Duration::ZERO, settle: Duration::ZERO };
        let measure = |moments| {
            let parts = StepParts { full: true, moments, ..StepParts::default() };
            take_most_bytes_in_use();
            let row = measure::<MetalCpu>(&config, &sizes, FloatType::F32, &EmulatorDevice::Quick, &pace, parts).unwrap();
            [take_most_bytes_in_use(), row.peak.unwrap().bytes].map(|bytes| bytes as f64 / sizes.weights as f64)
        };
        // The smaller one first: pools keep what they once took.
        let [eight_bit, f32] = [MomentType::EightBit, MomentType::F32].map(measure);
        let [live, pool] = [[eight_bit[0], f32[0]], [eight_bit[1], f32[1]]];
        println!("bytes of a parameter: {live:?} live, {pool:?} in the pool");
        assert!(live[1] - live[0] > 5.0 && live[0] < 12.0, "live {live:?} bytes of a parameter");
        // Pools grow by pages, which are large for so small a model.
        assert!(pool[1] >= pool[0], "pool {pool:?} bytes of a parameter");
    }
}
