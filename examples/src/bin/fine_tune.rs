//! Fine-tunes the quickstart's model on the backend of one type alias, and generates an answer.
//!
//! `cargo run --release -p burnish-examples --bin fine_tune`

use std::path::Path;

use anyhow::Result;
use burn::module::AutodiffModule;
use burnish_data::{BadRows, BatchOptions, Batches, RowTokenizer};
use burnish_engine::{AdamWConfig, ModelTrainer, StepItem, Trainer, Training};
use burnish_lora::{LoraConfig, attach};
use burnish_models::{GenerateOptions, LoadOptions, Message, Pretrained, generate};

/// Any burn backend that implements `FusedBackend`: `burnish_kernels::runtime::{Wgpu, Cuda}`, `burnish_metal::Metal`, or with a
/// feature of `burnish-kernels` `burn_candle::Candle` or `burn_ndarray::NdArray`.
type Backend = burn::backend::Flex;

fn main() -> Result<()> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
    let device = Default::default();

    // Frozen weights with new adapters on every linear layer. `open` also takes a hub id or a .gguf file.
    let base = Pretrained::open(assets.join("model"))?;
    let mut model = base.load::<Training<Backend>>(&device, LoadOptions::default())?;
    let lora = LoraConfig { rank: 8, ..LoraConfig::default() };
    attach(&mut model, &lora, 42, &device)?;

    // Turn rows into tokens with labels, and these into batches.
    let rows = burnish_data::load(&assets.join("data/train.jsonl"), &RowTokenizer::of(&base), BadRows::Stop)?;
    let options = BatchOptions { batch_size: 8, shuffle_seed: Some(42), ..BatchOptions::default() };
    let batches = Batches::new(rows.examples, options);

    let mut trainer = ModelTrainer::<Backend>::new(model, AdamWConfig::default(), &device);
    for (index, batch) in batches.epoch(0).iter().take(20).enumerate() {
        let item = StepItem { step: index + 1, batches: vec![batch], ..StepItem::default() };
        let numbers = trainer.step(&item, 4e-3)?;
        println!("step {}: loss {:.4}", item.step, numbers.loss);
    }
    trainer.save_adapter(&lora, &base.source, Path::new("runs/fine_tune/adapter"))?;

    let model = trainer.model().valid();
    let prompt = base.chat_prompt(&[Message::new("user", "Table for 4 at Luigi's on Friday at 7 pm, please.")])?;
    let end_tokens = base.config.eos_token_id.clone();
    let options = GenerateOptions { max_tokens: 64, end_tokens, ..GenerateOptions::default() };
    let answer = generate(&model, &base.tokenizer, &mut model.new_cache(), &prompt, &options, &device, |_| {})?;
    println!("{}", answer.text);
    Ok(())
}
