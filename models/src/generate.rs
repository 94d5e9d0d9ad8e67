//! Generates text, token by token.

use std::time::{Duration, Instant};

use burn::tensor::DType;
use burnish_kernels::FusedBackend;

use crate::cache::Cache;
use crate::error::{ModelError, Result};
use crate::input::ModelInput;
use crate::model::LanguageModel;
use crate::sampling::{Sampler, SamplingOptions};
use crate::tokenizer::Tokenizer;

/// How tokens are chosen, and when generation ends.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// The largest number of tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Tokens that end the text.
    pub end_tokens: Vec<u32>,
    /// Strings that end the text, without becoming part of it.
    pub stop: Vec<String>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token was generated.
    EndToken,
    /// A stop string was generated.
    Stop,
    /// The limit of tokens was reached.
    Length,
}

/// The result of [`generate`].
#[derive(Debug, Clone)]
pub struct Generated {
    /// The text, without the end token or stop string.
    pub text: String,
    /// The generated ids, with the end token.
    pub tokens: Vec<u32>,
    /// Why generation ended.
    pub finish: Finish,
    /// The number of tokens of the prompt that were not in the cache.
    pub prompt_tokens: usize,
    /// The time until the first token was chosen. It includes the compilation of kernels that were not used before.
    pub prompt_time: Duration,
    /// The time for the tokens after the first.
    pub decode_time: Duration,
}

impl Generated {
    /// The number of tokens after the first, divided by the seconds they took; `None` if there are none.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let decoded = self.tokens.len().checked_sub(1).filter(|decoded| *decoded > 0)?;
        Some(decoded as f64 / self.decode_time.as_secs_f64().max(1e-9))
    }
}

/// Generates the continuation of `prompt`; `on_text` is called with each piece of text as soon as it is final.
///
/// The first [`Cache::len`] tokens of `prompt` must be those in the cache, which is not checked: the caller must
/// [`Cache::truncate`] it to the tokens that they share. The result does not depend on how many these are. Afterwards, the
/// cache has the prompt and all generated tokens but the last.
///
/// # Errors
/// [`ModelError::NonFinite`] if a logit is not finite, and an error if the tokenizer can't decode the tokens.
///
/// # Panics
/// If the whole prompt is in the cache, or the prompt is empty.
pub fn generate<B: FusedBackend>(
    model: &LanguageModel<B>,
    tokenizer: &Tokenizer,
    cache: &mut Cache<B>,
    prompt: &[u32],
    options: &GenerateOptions,
    device: &B::Device,
    mut on_text: impl FnMut(&str),
) -> Result<Generated> {
    assert!(cache.len() < prompt.len(), "expected a prompt that is longer than the cache");
    let mut sampler = Sampler::new(options.sampling.clone());
    let mut text = StreamedText::new(tokenizer, &options.stop);
    let (mut seen, mut tokens) = (prompt.to_vec(), Vec::new());
    let mut next = prompt[cache.len()..].to_vec();
    let (prompt_tokens, started, mut prompt_time) = (next.len(), Instant::now(), Duration::ZERO);
    let finish = loop {
        if tokens.len() >= options.max_tokens {
            break Finish::Length;
        }
        if model.must_forget(cache, seen.len()) {
            cache.truncate(0);
            next.clone_from(&seen);
        }
        let logits = last_logits(model, cache, &next, device);
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(ModelError::NonFinite);
        }
        let token = sampler.next(&logits, &seen);
        if tokens.is_empty() {
            prompt_time = started.elapsed();
        }
        tokens.push(token);
        seen.push(token);
        if options.end_tokens.contains(&token) {
            break Finish::EndToken;
        }
        let stopped = text.push(token, &mut on_text)?;
        if stopped {
            break Finish::Stop;
        }
        next = vec![token];
    };
    let decode_time = started.elapsed().saturating_sub(prompt_time);
    let text = text.finish(&mut on_text);
    Ok(Generated { text, tokens, finish, prompt_tokens, prompt_time, decode_time })
}

/// Appends `tokens` to the cache and returns the logits after the last of them, `vocab_size` values.
pub fn last_logits<B: FusedBackend>(
    model: &LanguageModel<B>,
    cache: &mut Cache<B>,
    tokens: &[u32],
    device: &B::Device,
) -> Vec<f32> {
    let input = ModelInput::texts(tokens, 1, cache.len(), device);
    let hidden = model.hidden_states(&input, Some(cache));
    let last = hidden.narrow(0, tokens.len() - 1, 1);
    let logits = model.logits(last).cast(DType::F32).into_data();
    logits.into_vec().unwrap_or_else(|error| unreachable!("logits in f32: {error}"))
}

/// Decodes tokens into text. A piece is passed on only when it is final: a character can need several tokens, and the end of
/// the text can be the beginning of a stop string.
struct StreamedText<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    tokens: Vec<u32>,
    /// The beginning that is not decoded again, so that decoding takes linear time.
    settled: Settled,
    /// The number of bytes of `text` that were passed on.
    passed_on: usize,
    text: String,
}

/// A number of tokens and their text.
#[derive(Default)]
struct Settled {
    tokens: usize,
    text: String,
}

impl<'a> StreamedText<'a> {
    fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, tokens: Vec::new(), settled: Settled::default(), passed_on: 0, text: String::new() }
    }

    /// Adds a token. Returns true if the text now has a stop string.
    fn push(&mut self, token: u32, on_text: &mut impl FnMut(&str)) -> Result<bool> {
        self.tokens.push(token);
        self.decode()?;
        let stop = self.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| self.text.find(stop.as_str())).min();
        if let Some(at) = stop {
            self.text.truncate(at);
            return Ok(true);
        }
        if !self.text.ends_with('\u{fffd}') {
            let held = self.held_back();
            self.pass_on(self.text.len() - held, on_text);
        }
        Ok(false)
    }

    fn finish(mut self, on_text: &mut impl FnMut(&str)) -> String {
        self.pass_on(self.text.len(), on_text);
        self.text
    }

    fn pass_on(&mut self, until: usize, on_text: &mut impl FnMut(&str)) {
        if until > self.passed_on
            && let Some(piece) = self.text.get(self.passed_on..until)
        {
            on_text(piece);
            self.passed_on = until;
        }
    }

    /// The number of bytes at the end that may be the beginning of a stop string.
    fn held_back(&self) -> usize {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        (1..longest.min(self.text.len() + 1))
            .rev()
            .find(|length| {
                let start = self.text.len() - length;
                self.text.is_char_boundary(start) && self.stop.iter().any(|stop| stop.starts_with(&self.text[start..]))
            })
            .unwrap_or(0)
    }

    /// Decodes the tokens after the settled ones. Some tokens before the end stay unsettled, because decoders treat the spaces at
    /// the beginning of a text differently.
    fn decode(&mut self) -> Result<()> {
        const WINDOW: usize = 32;
        let start = self.settled.tokens;
        let tail = self.tokenizer.decode(&self.tokens[start..], true)?;
        let text = format!("{}{tail}", self.settled.text);
        if self.tokens.len() - start >= 2 * WINDOW && !tail.ends_with('\u{fffd}') {
            let kept = self.tokenizer.decode(&self.tokens[self.tokens.len() - WINDOW..], true)?;
            if let Some(head) = text.strip_suffix(kept.as_str()) {
                self.settled = Settled { tokens: self.tokens.len() - WINDOW, text: head.to_owned() };
            }
        }
        self.text = text;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Tensor;
    use burnish_kernels::tolerance::Tolerance;
    use serde_json::json;

    use super::*;
    use crate::config::ModelConfig;
    use crate::operand::Operand;
    use crate::weight::MatrixWeight;

    fn json() -> serde_json::Value {
        json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 24, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false
        })
    }

    fn config() -> ModelConfig {
        ModelConfig::from_json(&json()).unwrap()
    }

    /// One token for each of the words `t0` to `t23`.
    fn tokenizer() -> Tokenizer {
        let vocabulary: serde_json::Map<_, _> = (0..24).map(|id| (format!("t{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "t0", "vocab": vocabulary}
        });
        let null = serde_json::Value::Null;
        Tokenizer::from_json(tokenizer.to_string().as_bytes(), &null, &null, &null).unwrap()
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let device = Default::default();
        let mut model = LanguageModel::<Flex>::random(&config(), 1, &device).unwrap();
        let (_, linear) = model.linears_mut().remove(0);
        let [outputs, inputs] = linear.dims();
        linear.weight = MatrixWeight::Frozen(Operand::Dense(Tensor::full([outputs, inputs], f32::INFINITY, &device)));
        let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
        let result = generate(&model, &tokenizer(), &mut Cache::new(2), &[1, 2], &options, &device, |_| {});
        assert!(matches!(result, Err(ModelError::NonFinite)), "{result:?}");
    }

    #[test]
    fn the_cache_is_computed_again_where_the_frequencies_change() {
        let factors = |factor: f64| vec![factor; 4];
        let mut json = json();
        json["rope_scaling"] = json!({ "rope_type": "longrope", "short_factor": factors(1.0), "long_factor": factors(7.0),
            "original_max_position_embeddings": 8 });
        let config = ModelConfig::from_json(&json).unwrap();
        let (tokenizer, device) = (tokenizer(), Default::default());
        let model = LanguageModel::<Flex>::random(&config, 3, &device).unwrap();
        let run = |cache: &mut Cache<Flex>, prompt: &[u32], count: usize| {
            let options = GenerateOptions { max_tokens: count, ..GenerateOptions::default() };
            generate(&model, &tokenizer, cache, prompt, &options, &device, |_| {}).unwrap().tokens
        };
        // The logits after a text, of which a part is in the cache, against those without a cache.
        let check = |cache: &mut Cache<Flex>, text: &[u32]| {
            let cached = last_logits(&model, cache, &text[cache.len()..], &device);
            let expected = last_logits(&model, &mut model.new_cache(), text, &device);
            Tolerance::of(DType::F32).check("logits", &cached, &expected).unwrap();
        };
        let prompt = [1, 9, 4, 17, 3];
        let mut cache = model.new_cache();
        let text = [&prompt[..], &run(&mut cache, &prompt, 10)].concat();
        assert_eq!(cache.len(), 14);
        check(&mut cache, &text);
        // And back: the beginning of a long text in the cache, and a short text.
        cache.truncate(4);
        assert!(model.must_forget(&cache, 5) && !model.must_forget(&cache, 9));
        run(&mut cache, &prompt, 1);
        cache.truncate(4);
        check(&mut cache, &prompt);
    }

    #[test]
    fn the_repetition_penalty_applies_to_tokens_in_the_cache() {
        let (config, tokenizer, device) = (config(), tokenizer(), Default::default());
        let sampling = SamplingOptions { repetition_penalty: 3.0, ..SamplingOptions::default() };
        let options = GenerateOptions { max_tokens: 8, sampling, ..GenerateOptions::default() };
        let mut changed = 0;
        for seed in 0..8 {
            let model = LanguageModel::<Flex>::random(&config, seed, &device).unwrap();
            let run = |cache: &mut Cache<Flex>, prompt: &[u32]| {
                generate(&model, &tokenizer, cache, prompt, &options, &device, |_| {}).unwrap().tokens
            };
            let mut cache = Cache::new(2);
            let mut conversation: Vec<u32> = (0..12).collect();
            let first = run(&mut cache, &conversation);
            conversation.extend(first);
            conversation.extend([3, 5]);
            assert_eq!(cache.len(), 12 + 8 - 1);
            let cached = run(&mut cache, &conversation);
            assert_eq!(cached, run(&mut Cache::new(2), &conversation));
            // A penalty on the other tokens alone can choose another token.
            let logits = last_logits(&model, &mut Cache::new(2), &conversation, &device);
            changed += usize::from(cached[0] != Sampler::new(options.sampling.clone()).next(&logits, &conversation[19..]));
        }
        assert!(changed > 0);
    }
}
