//! A model that is evaluated and that answers.

use anyhow::Result;
use burnish_kernels::FusedBackend;
use burnish_models::generate::Generated;
use burnish_models::{Cache, GenerateOptions, LanguageModel, Tokenizer, generate};

use crate::batch::Batch;
use crate::step::batch_loss;
use crate::trainer::number;

/// A model with frozen weights on a device, whatever its backend.
pub trait Runner: Send {
    /// The summed loss of a batch.
    ///
    /// # Errors
    /// When the device fails.
    fn loss(&mut self, batch: &Batch) -> Result<f64>;

    /// Forgets all but the first `kept` tokens of what it has seen, and continues `prompt` after them.
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

    /// Tokens that it has seen and not forgotten: the prompt, and all that were generated but the last.
    fn seen(&self) -> usize;
}

/// [`Runner`] on a backend.
pub struct ModelRunner<B: FusedBackend> {
    model: LanguageModel<B>,
    device: B::Device,
    cache: Cache<B>,
}

impl<B: FusedBackend> ModelRunner<B> {
    /// Runs a model.
    pub fn new(model: LanguageModel<B>, device: B::Device) -> Self {
        let cache = Cache::new(model.num_layers());
        Self { model, device, cache }
    }
}

impl<B: FusedBackend> Runner for ModelRunner<B> {
    fn loss(&mut self, batch: &Batch) -> Result<f64> {
        number(batch_loss(&self.model, batch, None, &self.device))
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

    fn seen(&self) -> usize {
        self.cache.len()
    }
}
