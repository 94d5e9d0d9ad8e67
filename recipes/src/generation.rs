//! A model on a device, with its tokenizer and template, ready to answer.

use std::path::Path;

use anyhow::{Result, bail};
use burnish_kernels::FusedBackend;
use burnish_lora::load_adapter;
use burnish_models::generate::Generated;
use burnish_models::{
    Cache, ComputeType, GenerateOptions, LanguageModel, LoadOptions, Message, ModelError, Pretrained, Tokenizer, generate,
};

/// A model that answers.
pub struct Assistant<B: FusedBackend> {
    /// Configuration, tokenizer and template.
    pub pretrained: Pretrained,
    /// The model, with its adapter where one was named.
    pub model: LanguageModel<B>,
    device: B::Device,
    /// Tokens that the cache has seen, so that a conversation is read once.
    seen: Vec<u32>,
    cache: Cache<B>,
}

impl<B: FusedBackend> Assistant<B> {
    /// Brings a model to the device and attaches an adapter without merging.
    ///
    /// # Errors
    /// Whatever is wrong with the model or the adapter.
    pub fn load(pretrained: Pretrained, adapter: Option<&Path>, dtype: ComputeType, device: B::Device) -> Result<Self> {
        let options = LoadOptions::frozen(dtype);
        let mut model = LanguageModel::load(&pretrained.config, &*pretrained.checkpoint, &device, options)?;
        if let Some(folder) = adapter {
            load_adapter(&mut model, folder, None, &device)?;
        }
        Ok(Self::new(pretrained, model, device))
    }

    /// Takes a model that is on the device already.
    pub fn new(pretrained: Pretrained, model: LanguageModel<B>, device: B::Device) -> Self {
        let cache = Cache::new(model.num_layers());
        Self { pretrained, model, device, seen: Vec::new(), cache }
    }

    /// Answers a conversation.
    ///
    /// # Errors
    /// When there is no template, it refuses the messages, or the conversation is longer than the model's context.
    pub fn answer(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        on_text: impl FnMut(&str),
    ) -> Result<Generated> {
        let template = self.pretrained.chat_template.as_ref().ok_or(ModelError::NoTemplate)?;
        let text = template.render(messages, None, true)?;
        self.run(&text, false, options, on_text)
    }

    /// Continues plain text.
    ///
    /// # Errors
    /// When the text is empty or longer than the model's context.
    pub fn complete(&mut self, text: &str, options: &GenerateOptions, on_text: impl FnMut(&str)) -> Result<Generated> {
        self.run(text, true, options, on_text)
    }

    fn run(&mut self, text: &str, plain: bool, options: &GenerateOptions, on_text: impl FnMut(&str)) -> Result<Generated> {
        let tokens = prompt_tokens(&self.pretrained.tokenizer, text, plain)?;
        let rows = self.pretrained.config.vocab_size;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= rows) {
            bail!(
                "the tokenizer gives the token {token}, and the embedding has {rows} rows: they belong to different models"
            );
        }
        let context = self.pretrained.config.max_position_embeddings;
        if tokens.is_empty() {
            bail!("the prompt is empty");
        }
        if tokens.len() >= context {
            bail!("the prompt has {} tokens, and the model's context is {context}", tokens.len());
        }
        // What the cache has seen already is not read again; one token at least must be.
        let same = self.seen.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        self.cache.truncate(same);
        let mut options = options.clone();
        options.max_tokens = options.max_tokens.min(context - tokens.len());
        options.end_tokens.extend(&self.pretrained.config.eos_token_id);
        let generated =
            generate(&self.model, &self.pretrained.tokenizer, &mut self.cache, &tokens, &options, &self.device, on_text)?;
        self.seen = tokens;
        self.seen.extend(&generated.tokens);
        self.seen.truncate(self.cache.len());
        Ok(generated)
    }
}

/// Tokens of a prompt. A rendered conversation has the start token in it where its template wants one, as in training;
/// plain text gets one unless it begins with it.
fn prompt_tokens(tokenizer: &Tokenizer, text: &str, plain: bool) -> Result<Vec<u32>, ModelError> {
    if plain { tokenizer.encode_prompt(text) } else { tokenizer.encode(text, false) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_prompt_gets_one_start_token_and_a_conversation_none() {
        let file = include_bytes!("../assets/quickstart/model/tokenizer.json");
        let config = include_str!("../tests/fixtures/cases/bos/tokenizer_config.json");
        let config = serde_json::from_str(config).unwrap();
        let tokenizer = Tokenizer::from_json(file, &config, &Value::Null, &Value::Null).unwrap();
        let start = tokenizer.special().bos.as_ref().map(|(_, id)| *id);
        let tokens = |text: &str, plain: bool| prompt_tokens(&tokenizer, text, plain).unwrap();
        let rendered = tokens("<|im_start|>user\nhi", false);
        assert_eq!(rendered, tokenizer.encode("<|im_start|>user\nhi", false).unwrap());
        assert_eq!(tokens("hi", true).first().copied(), start);
        assert_eq!(tokens("<|endoftext|>hi", true), tokens("hi", true));
    }
}
