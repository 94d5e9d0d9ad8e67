//! Scores answers, one per line on stdin, with the hidden states of a language model and a helper model from an ONNX file:
//!
//! `echo "A table for two." | cargo run --release -p burnish-examples --features onnx --bin score_answers`

use anyhow::{Context, Result, ensure};
use burn::backend::Flex;
use burnish_examples::reward_head::RewardHead;
use burnish_models::{LoadOptions, ModelInput, Pretrained};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "recipes/assets/quickstart/model".to_owned());
    let device = Default::default();
    let pretrained = Pretrained::open(&folder)?;
    ensure!(pretrained.config.hidden_size == 128, "the helper model needs hidden states of size 128");
    let model = pretrained.load::<Flex>(&device, LoadOptions::default())?;
    let head = RewardHead::new(&device);
    for line in std::io::stdin().lines() {
        let line = line.context("stdin")?;
        let tokens = pretrained.tokenizer.encode(&line, true)?;
        let Some(last) = tokens.len().checked_sub(1) else { continue };
        let hidden = model.hidden_states(&ModelInput::texts(&tokens, 1, 0, &device), None).narrow(0, last, 1);
        let score: f32 = head.forward(hidden).into_scalar();
        println!("{score:.4} {line}");
    }
    Ok(())
}
