//! A model on a device with its tokenizer and chat template, ready to generate.

use std::path::Path;

use anyhow::{Result, bail};
use burnish_engine::{Device, Runner};
use burnish_models::generate::Generated;
use burnish_models::{GenerateOptions, LoadOptions, Message, ModelError, Pretrained, Tokenizer};

/// A model that answers conversations.
pub struct Assistant {
    /// Configuration, tokenizer and chat template.
    pub pretrained: Pretrained,
    runner: Box<dyn Runner>,
    /// Tokens in the runner's cache, so that a conversation is processed only once.
    cached: Vec<u32>,
}

impl Assistant {
    /// Loads a model onto the device, with an adapter that is not merged.
    ///
    /// # Errors
    /// When model or adapter can't be loaded.
    pub fn load(device: &dyn Device, pretrained: Pretrained, adapter: Option<&Path>, options: LoadOptions) -> Result<Self> {
        let runner = device.run(&pretrained.config, &*pretrained.checkpoint, options, adapter)?;
        Ok(Self { pretrained, runner, cached: Vec::new() })
    }

    /// Answers a conversation.
    ///
    /// # Errors
    /// When there is no chat template, the template rejects the messages, or the conversation exceeds the model's context.
    pub fn answer(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated> {
        let template = self.pretrained.chat_template.as_ref().ok_or(ModelError::NoTemplate)?;
        let text = template.render(messages, None, true)?;
        self.run(&text, false, options, on_text)
    }

    /// Continues plain text.
    ///
    /// # Errors
    /// When the text is empty or exceeds the model's context.
    pub fn complete(&mut self, text: &str, options: &GenerateOptions, on_text: &mut dyn FnMut(&str)) -> Result<Generated> {
        self.run(text, true, options, on_text)
    }

    fn run(
        &mut self,
        text: &str,
        plain: bool,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated> {
        let tokens = prompt_tokens(&self.pretrained.tokenizer, text, plain)?;
        let rows = self.pretrained.config.vocab_size;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= rows) {
            bail!(
                "the tokenizer returned token {token}, but the embedding has only {rows} rows: they belong to different models"
            );
        }
        let context = self.pretrained.config.max_position_embeddings;
        if tokens.is_empty() {
            bail!("the prompt is empty");
        }
        if tokens.len() >= context {
            bail!("the prompt has {} tokens, but the model's context is {context}", tokens.len());
        }
        // Tokens in the cache are not processed again, except that there must be at least one new token.
        let same = self.cached.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        let mut options = options.clone();
        options.max_tokens = options.max_tokens.min(context - tokens.len());
        options.end_tokens.extend(&self.pretrained.config.eos_token_id);
        // What follows is overwritten, also where generating fails.
        self.cached.truncate(same);
        let generated = self.runner.generate(&self.pretrained.tokenizer, same, &tokens, &options, on_text)?;
        self.cached = tokens;
        self.cached.extend(&generated.tokens);
        self.cached.truncate(self.runner.cached());
        Ok(generated)
    }
}

/// Tokens of a prompt. Plain text gets a start token unless it begins with one; a rendered conversation gets none, because its
/// template writes it.
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
        let config = include_str!("../data/tests/fixtures/cases/bos/tokenizer_config.json");
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
