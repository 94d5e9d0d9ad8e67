//! Fine-tuning with the library, on any backend: load a model, attach adapters, train, merge, export, generate.

use std::path::Path;

use anyhow::Result;
use burn::module::AutodiffModule;
use burnish_engine::{AdamWConfig, ModelTrainer, Objective, StepItem, Trainer, Training};
use burnish_export::{GgufOptions, export_gguf};
use burnish_kernels::FusedBackend;
use burnish_lora::{LoraConfig, MergedCheckpoint, attach};
use burnish_models::{Cache, GenerateOptions, LanguageModel, LoadOptions, Pretrained, generate};
use burnish_recipes::data::{self, BadRows, BatchOptions, Batches, RowTokenizer};

/// Trains ten LoRA steps on the rows of a file, and writes a PEFT folder and a GGUF file. Returns the losses, and an answer.
///
/// # Errors
/// When the model or the rows can't be read, or a file can't be written.
pub fn fine_tune<B: FusedBackend>(model: &Path, rows: &Path, output: &Path) -> Result<(Vec<f64>, String)> {
    let base = Pretrained::open(&model.display().to_string())?;
    let device = B::Device::default();

    // Frozen weights, and fresh adapters on all linear layers.
    let mut model = LanguageModel::<Training<B>>::load(&base.config, &*base.checkpoint, &device, LoadOptions::default())?;
    let lora = LoraConfig { rank: 8, ..LoraConfig::default() };
    attach(&mut model, &lora, 42, &device)?;

    // Turn rows into tokens with labels, and these into batches.
    let row_tokenizer = RowTokenizer {
        tokenizer: &base.tokenizer,
        template: base.chat_template.as_ref(),
        mask_prompt: true,
        preference_pairs: false,
        max_seq_length: 128,
        vocab_size: base.config.vocab_size,
    };
    let rows = data::load(rows, &row_tokenizer, BadRows::Stop)?;
    let options = BatchOptions {
        batch_size: 8,
        max_seq_length: 128,
        packing: false,
        shuffle_seed: Some(42),
        preference_pairs: false,
        pad_token_id: 0,
    };
    let batches = Batches::new(rows.examples, options);

    // Train.
    let mut trainer = ModelTrainer::<B>::new(model, AdamWConfig::default(), device.clone());
    let mut losses = Vec::new();
    for (index, batch) in Batches::epoch(&batches, 0).iter().take(10).enumerate() {
        let objective = Objective::Tokens;
        let item = StepItem { step: index + 1, epoch: 0, batches: vec![batch], seed: 42, objective, loss_scale: 1.0 };
        trainer.forward_backward(&item)?;
        trainer.update(4e-3);
        losses.push(trainer.finish()?.loss);
    }

    // Write the adapter, and the merged model.
    let adapter = output.join("adapter");
    trainer.save_adapter(&lora, &base.source, &adapter)?;
    let merged = MergedCheckpoint::open(&*base.checkpoint, &adapter)?;
    export_gguf(&base, &merged, &output.join("model.gguf"), &GgufOptions { overwrite: true, ..Default::default() })?;

    // Generate an answer.
    let model = trainer.model().valid();
    let prompt = base.tokenizer.encode("Table for 4 at Luigi's on Friday at 7 pm, please.", false)?;
    let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    let mut cache = Cache::new(model.num_layers());
    let answer = generate(&model, &base.tokenizer, &mut cache, &prompt, &options, &device, |_| {})?;
    Ok((losses, answer.text))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn_ndarray::NdArray;
    use burnish_models::Checkpoint;
    use burnish_models::gguf::GgufFile;

    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn all_backends_have_the_same_losses() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
        let (model, rows) = (assets.join("model"), assets.join("data/train.jsonl"));
        let folder = tempfile::tempdir().unwrap();
        let (losses, _) = fine_tune::<Flex>(&model, &rows, &folder.path().join("flex")).unwrap();
        assert!(losses.len() == 10 && losses[9] < 0.9 * losses[0], "{losses:?}");
        let (others, _) = fine_tune::<NdArray>(&model, &rows, &folder.path().join("ndarray")).unwrap();
        for (loss, other) in losses.iter().zip(&others) {
            assert!((loss - other).abs() < 1e-4 * loss, "{losses:?} {others:?}");
        }
        assert!(!GgufFile::open(&folder.path().join("flex/model.gguf")).unwrap().names().is_empty());
    }
}
