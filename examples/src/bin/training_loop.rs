//! A training loop written with the parts of the library: forward, loss, backward, update.
//!
//! `cargo run --release -p burnish-examples --bin training_loop`

use std::path::Path;

use anyhow::Result;
use burn::optim::GradientsParams;
use burnish_data::{BadRows, BatchOptions, Batches, RowTokenizer};
use burnish_engine::{AdamW, AdamWConfig, Norm, Targets, Training};
use burnish_kernels::{FusedBackend, select_rows};
use burnish_lora::{LoraConfig, attach, save_adapter};
use burnish_models::{LoadOptions, Pretrained};

/// Trains adapters for some steps; returns their losses.
pub fn train<B: FusedBackend>(steps: usize, output: &Path) -> Result<Vec<f32>> {
    let device = B::Device::default();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
    let base = Pretrained::open(assets.join("model"))?;
    let mut model = base.load::<Training<B>>(&device, LoadOptions::default())?;
    let lora = LoraConfig { rank: 8, ..LoraConfig::default() };
    attach(&mut model, &lora, 42, &device)?;

    let rows = burnish_data::load(&assets.join("data/train.jsonl"), &RowTokenizer::of(&base), BadRows::Stop)?;
    let batches = Batches::new(rows.examples, BatchOptions { batch_size: 8, ..BatchOptions::default() });
    let mut optimizer = AdamW::<Training<B>>::new(AdamWConfig::default());
    let mut losses = Vec::new();
    for batch in batches.epoch(0).iter().take(steps) {
        // Only the hidden states that predict a learned token; the loss is computed without all logits in memory.
        let Targets { positions, labels, count } = batch.to_targets(&device);
        let hidden = select_rows(model.hidden_states(&batch.to_input(&device), None), positions);
        // Those beyond `count` predict nothing: they round the shape up, so that few shapes exist.
        let loss = model.losses(hidden, labels).narrow(0, 0, count).mean();

        // Only the adapters have gradients: the base is frozen.
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let norm = Norm::of(&model, &grads, 1.0, &device);
        let loss = loss.inner();
        optimizer.update(&mut model, grads, &norm, &loss, 4e-3);
        losses.push(loss.into_data().iter::<f32>().sum());
    }
    save_adapter(&model, &lora, &base.source, output)?;
    Ok(losses)
}

fn main() -> Result<()> {
    for (index, loss) in train::<burn::backend::Flex>(20, Path::new("runs/training_loop/adapter"))?.iter().enumerate() {
        println!("step {}: loss {loss:.4}", index + 1);
    }
    Ok(())
}
