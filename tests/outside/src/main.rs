//! Fine-tunes a model, generates an answer and writes a GGUF file: `outside MODEL ROWS OUTPUT`.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::module::AutodiffModule;
use burnish_data::{BadRows, BatchOptions, Batches, RowTokenizer};
use burnish_engine::{AdamWConfig, ModelTrainer, StepItem, Trainer, Training};
use burnish_export::{GgufOptions, export_gguf};
use burnish_lora::{LoraConfig, MergedCheckpoint, attach};
use burnish_models::{GenerateOptions, LoadOptions, Message, Pretrained, generate};

type Backend = burn::backend::Flex;

fn main() -> Result<()> {
    let paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, rows, output] = <[PathBuf; 3]>::try_from(paths).ok().context("usage: outside MODEL ROWS OUTPUT")?;
    let device = Default::default();

    let base = Pretrained::open(model)?;
    let mut model = base.load::<Training<Backend>>(&device, LoadOptions::default())?;
    let lora = LoraConfig { rank: 8, ..LoraConfig::default() };
    attach(&mut model, &lora, 42, &device)?;

    let rows = burnish_data::load(&rows, &RowTokenizer::of(&base), BadRows::Stop)?;
    let batches = Batches::new(rows.examples, BatchOptions { batch_size: 4, ..BatchOptions::default() });
    let mut trainer = ModelTrainer::<Backend>::new(model, AdamWConfig::default(), &device);
    for (index, batch) in batches.epoch(0).iter().take(10).enumerate() {
        let item = StepItem { step: index + 1, batches: vec![batch], ..StepItem::default() };
        println!("loss {}", trainer.step(&item, 4e-3)?.loss);
    }

    let model = trainer.model().valid();
    let prompt = base.chat_prompt(&[Message::new("user", "Table for 4 at Luigi's on Friday at 7 pm, please.")])?;
    let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    let answer = generate(&model, &base.tokenizer, &mut model.new_cache(), &prompt, &options, &device, |_| {})?;
    println!("answer {}", answer.text);

    trainer.save_adapter(&lora, &base.source, &output.join("adapter"))?;
    let merged = MergedCheckpoint::open(&base.checkpoint, &output.join("adapter"))?;
    export_gguf(&base, &merged, &output.join("model.gguf"), &GgufOptions::default())?;
    Ok(())
}
