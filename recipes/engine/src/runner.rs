//! A model for evaluation and generation.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use burnish_kernels::FusedBackend;
use burnish_lora::load_adapter;
use burnish_models::generate::{Generated, last_logits};
use burnish_models::{AdapterPass, Cache, GenerateOptions, LanguageModel, Tokenizer, generate};

use crate::batch::Batch;
use crate::failure::failure;
use crate::step::{batch_loss, numbers, token_losses};

/// A model with frozen weights on a device of any backend.
pub trait Runner: Send {
    /// The summed loss of a batch.
    ///
    /// # Errors
    /// When the device fails.
    fn loss(&mut self, batch: &Batch) -> Result<f64>;

    /// The loss of each predicted token of a batch, in the order of [`Batch::target_examples`].
    ///
    /// # Errors
    /// When the device fails.
    fn token_losses(&mut self, batch: &Batch) -> Result<Vec<f64>>;

    /// A second runner on the same weights, which are not copied, with an adapter that is not merged.
    ///
    /// # Errors
    /// When the adapter can't be loaded, or this runner has one.
    fn with_adapter(&self, adapter: &Path) -> Result<Box<dyn Runner>>;

    /// The logits of every token of a batch, `[rows · length, vocab_size]`, row-major.
    ///
    /// # Errors
    /// When the device fails.
    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>>;

    /// With the name of each linear layer of the blocks, the sum of the squares of each column of its inputs, over the tokens of a batch
    /// that are not padding. The batch has one row, which ends with its padding.
    ///
    /// # Errors
    /// When the device fails.
    fn input_squares(&mut self, batch: &Batch) -> Result<Vec<(String, Vec<f32>)>>;

    /// Appends tokens to the cache, and returns the logits after the last one, `[vocab_size]`.
    fn next_logits(&mut self, tokens: &[u32]) -> Vec<f32>;

    /// Continues `prompt`. The first `kept` tokens are taken from the cache, which is truncated to them; the rest is processed.
    ///
    /// # Errors
    /// When the tokenizer can't decode.
    fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        kept: usize,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated>;

    /// Number of tokens in the cache: the prompt, and all generated ones except the last.
    fn cached(&self) -> usize;
}

/// The [`Runner`] of a backend.
pub struct ModelRunner<B: FusedBackend> {
    model: LanguageModel<B>,
    device: B::Device,
    cache: Cache<B>,
}

impl<B: FusedBackend> ModelRunner<B> {
    /// A runner with an empty cache.
    pub fn new(model: LanguageModel<B>, device: &B::Device) -> Self {
        let device = device.clone();
        let cache = model.new_cache();
        Self { model, device, cache }
    }
}

impl<B: FusedBackend> Runner for ModelRunner<B> {
    fn loss(&mut self, batch: &Batch) -> Result<f64> {
        Ok(numbers(batch_loss(&self.model, batch, AdapterPass::Current, &self.device))?.iter().sum())
    }

    fn token_losses(&mut self, batch: &Batch) -> Result<Vec<f64>> {
        numbers(token_losses(&self.model, batch, AdapterPass::Current, &self.device))
    }

    fn with_adapter(&self, adapter: &Path) -> Result<Box<dyn Runner>> {
        let mut model = self.model.clone();
        if model.has_adapter() {
            bail!("{}: the model already has an adapter", adapter.display());
        }
        load_adapter(&mut model, adapter, None, &self.device)?;
        model.freeze_matrices();
        Ok(Box::new(Self::new(model, &self.device)))
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let logits = self.model.logits(self.model.hidden_states(&batch.to_input(&self.device), None));
        let data = logits.try_into_data().map_err(|error| anyhow!(failure(error)))?;
        Ok(data.iter::<f32>().collect())
    }

    fn input_squares(&mut self, batch: &Batch) -> Result<Vec<(String, Vec<f32>)>> {
        assert_eq!(batch.rows, 1, "expected a batch of one row");
        let observed = self.model.input_squares(&batch.to_input(&self.device), batch.tokens);
        let sums = observed.into_iter().map(|(name, squares)| {
            let data = squares.take().ok_or_else(|| anyhow!("`{name}` had no input"))?;
            let data = data.map_err(|error| anyhow!(failure(error)))?;
            Ok((name, data.iter::<f32>().collect()))
        });
        sums.collect()
    }

    fn next_logits(&mut self, tokens: &[u32]) -> Vec<f32> {
        last_logits(&self.model, &mut self.cache, tokens, &self.device)
    }

    fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        kept: usize,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated> {
        self.cache.truncate(kept);
        Ok(generate(&self.model, tokenizer, &mut self.cache, prompt, options, &self.device, on_text)?)
    }

    fn cached(&self) -> usize {
        self.cache.len()
    }
}
