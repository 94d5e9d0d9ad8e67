//! The memory of a training step, counted at every allocation of this process.
#![allow(clippy::unwrap_used)]

#[path = "../../../models/tests/allocations/mod.rs"]
mod allocations;

use burn::backend::Flex;
use burnish_engine::{Batch, Checkpointing, IGNORE, StepItem, Training, gradients};
use burnish_lora::{LoraConfig, attach};
use burnish_models::error::Result;
use burnish_models::{Checkpoint, FloatType, LanguageModel, LoadOptions, ModelConfig};

/// Every tensor of a model, with all elements equal.
struct Constant(Vec<(String, Vec<usize>)>);

impl Checkpoint for Constant {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(vec![0.01; self.shape(name).unwrap_or_default().iter().product()])
    }
}

const HIDDEN: usize = 64;
const INNER: usize = 512;
const LAYERS: usize = 12;
const LENGTH: usize = 512;
const ROWS: usize = 2;
/// Bytes of an f32 of every token.
const TOKENS: usize = ROWS * LENGTH * 4;

/// The bytes that a step takes at its peak, beyond what lived before it.
fn peak(model: &LanguageModel<Training<Flex>>, item: &StepItem) -> usize {
    let memory = allocations::watch();
    let found = gradients(model, item, &Default::default()).unwrap();
    assert!(found.loss.into_scalar().is_finite());
    memory.peak()
}

/// A model with adapters, of this inner width.
fn model(inner: usize) -> LanguageModel<Training<Flex>> {
    let json = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": inner, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 128, "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&json).unwrap();
    let device = Default::default();
    let weights = Constant(LanguageModel::<Flex>::tensor_shapes(&config));
    let options = LoadOptions::frozen(FloatType::F32);
    let mut model = LanguageModel::load(&config, &weights, &device, options).unwrap();
    attach(&mut model, &LoraConfig { rank: 2, ..LoraConfig::default() }, 1, &device).unwrap();
    model
}

#[test]
fn a_checkpointed_step_keeps_little_more_than_the_inputs_of_its_blocks() {
    let model = model(INNER);
    let count = ROWS * LENGTH;
    let label = |index: usize| if index.is_multiple_of(LENGTH) { IGNORE } else { (index % 100) as i64 };
    let batch = Batch {
        input_ids: (0..count).map(|index| (index % 100) as u32).collect(),
        labels: (0..count).map(label).collect(),
        position_ids: (0..count).map(|index| (index % LENGTH) as u32).collect(),
        segment_ids: vec![1; count],
        rows: ROWS,
        length: LENGTH,
        tokens: count,
        target_tokens: count - ROWS,
        desirable: Vec::new(),
    };
    let item = |checkpointing| StepItem { batches: vec![batch.clone()], checkpointing, ..StepItem::default() };
    // Slices of 128 tokens.
    let sliced = Some(Checkpointing { mlp_elements: 128 * INNER });
    let peaks = [item(None), item(Some(Checkpointing::default())), item(sliced)].map(|item| peak(&model, &item));
    // The first one also fills what later steps share, such as the rows of the rotary table.
    let [all, whole, sliced] = [peak(&model, &item(None)), peaks[1], peaks[2]];
    println!("{all} bytes without checkpointing, {whole} with it, {sliced} in slices");
    let inputs = (LAYERS + 1) * HIDDEN * TOKENS;
    let factors = 4 * 2 * LAYERS * (8 * HIDDEN + 3 * (HIDDEN + INNER));
    // Of the block that is computed again: normed stream, q, k, v, attention's output, update, sum, and gradients of them.
    let of_block = 14 * HIDDEN * TOKENS;
    assert!(sliced > inputs && sliced < inputs + 2 * factors + of_block, "{sliced} of {inputs} + {of_block}");
    // What the others keep: q, k, v, attention's output, sum and norms of all blocks but one, gate, up and their product.
    assert!(all - sliced > (LAYERS - 1) * (5 * HIDDEN + 2 * INNER) * TOKENS, "{all} - {sliced}");
    // Inner activations of all tokens: gate and up at least.
    assert!(whole - sliced > 2 * INNER * TOKENS * 3 / 4, "{whole} - {sliced}");
    // A narrow feed-forward, so that most is kept when the loss is computed. Of each block two sums, rotated q and k, v, attention's output,
    // gate and up; neither norms nor q and k before their rotation, which would be 2 * HIDDEN more.
    let narrow = peak(&self::model(HIDDEN), &item(None));
    let kept = LAYERS * 8 * HIDDEN * TOKENS;
    println!("{narrow} bytes with a narrow feed-forward, {kept} kept");
    assert!(narrow < kept + of_block + 3 * HIDDEN * TOKENS, "{narrow} of {kept}");
}
