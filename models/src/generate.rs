//! Generates text, token by token.

mod burst;
mod text;

use std::time::{Duration, Instant};

use burn::tensor::{DType, Int, Tensor, Transaction};
use burnish_kernels::{FusedBackend, TokenDraw, sample_tokens};

use self::burst::Bursts;
use self::text::StreamedText;
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
    generate_in(model, tokenizer, cache, prompt, options, device, &mut Bursts::of::<B>(), &mut on_text)
}

/// [`generate`], with so many steps queued at a time.
fn generate_in<B: FusedBackend>(
    model: &LanguageModel<B>,
    tokenizer: &Tokenizer,
    cache: &mut Cache<B>,
    prompt: &[u32],
    options: &GenerateOptions,
    device: &B::Device,
    bursts: &mut Bursts,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generated> {
    let mut sampler = Sampler::new(options.sampling.clone());
    let mut text = StreamedText::new(tokenizer, &options.stop);
    let (mut seen, mut tokens) = (prompt.to_vec(), Vec::new());
    let mut next = prompt[cache.len()..].to_vec();
    let (prompt_tokens, started, mut prompt_time) = (next.len(), Instant::now(), Duration::ZERO);
    let finish = 'text: loop {
        let left = options.max_tokens - tokens.len();
        if left == 0 {
            break Finish::Length;
        }
        if model.must_forget(cache, seen.len()) {
            cache.truncate(0);
            next.clone_from(&seen);
        }
        let chosen = match options.sampling.draw(tokens.len()) {
            Some(draw) => bursts.queue(left, |count| queued(model, cache, &next, draw, count, device)),
            None => {
                let logits = last_logits(model, cache, &next, device);
                let is_finite = logits.iter().all(|logit| logit.is_finite());
                vec![is_finite.then(|| sampler.next(&logits, &seen))]
            }
        };
        for token in chosen {
            let Some(token) = token else {
                cache.truncate(seen.len());
                return Err(ModelError::NonFinite);
            };
            if tokens.is_empty() {
                prompt_time = started.elapsed();
            }
            tokens.push(token);
            seen.push(token);
            if options.end_tokens.contains(&token) {
                break 'text Finish::EndToken;
            }
            let is_stopped = text.push(token, on_text).inspect_err(|_| cache.truncate(seen.len() - 1))?;
            if is_stopped {
                break 'text Finish::Stop;
            }
            next = vec![token];
        }
    };
    // Steps after the last token may have been queued.
    cache.truncate(seen.len() - 1);
    let decode_time = started.elapsed().saturating_sub(prompt_time);
    let text = text.finish(on_text);
    Ok(Generated { text, tokens, finish, prompt_tokens, prompt_time, decode_time })
}

/// Appends `tokens` to the cache, and chooses up to `count` tokens one after the other, without waiting for the device in between. `None`
/// stands for a token whose logits are not finite.
fn queued<B: FusedBackend>(
    model: &LanguageModel<B>,
    cache: &mut Cache<B>,
    tokens: &[u32],
    draw: TokenDraw,
    count: usize,
    device: &B::Device,
) -> Vec<Option<u32>> {
    let mut input = ModelInput::texts(tokens, 1, cache.len(), device);
    let mut chosen: Vec<Tensor<B, 1, Int>> = Vec::new();
    loop {
        let number = draw.number + chosen.len() as u32;
        let token = sample_tokens(last_row(model, cache, &input), TokenDraw { number, ..draw });
        chosen.push(token.clone());
        if chosen.len() == count || model.must_forget(cache, cache.len() + 1) {
            break;
        }
        // The embedding has no row -1, so the next step takes row 0; its token is not used.
        input = ModelInput::following(token.clamp_min(0).unsqueeze(), cache.len());
    }
    let chosen = chosen.into_iter().fold(Transaction::<B>::default(), |all, token| all.register(token)).execute();
    chosen.into_iter().map(|token| token.iter::<i64>().next().and_then(|token| u32::try_from(token).ok())).collect()
}

/// Appends `tokens` to the cache and returns the logits after the last of them, `vocab_size` values.
pub fn last_logits<B: FusedBackend>(
    model: &LanguageModel<B>,
    cache: &mut Cache<B>,
    tokens: &[u32],
    device: &B::Device,
) -> Vec<f32> {
    let input = ModelInput::texts(tokens, 1, cache.len(), device);
    let logits = last_row(model, cache, &input).cast(DType::F32).into_data();
    logits.into_vec().unwrap_or_else(|error| unreachable!("logits in f32: {error}"))
}

/// Appends an input of one text to the cache and returns the logits after its last token, `[1, vocab_size]`.
fn last_row<B: FusedBackend>(model: &LanguageModel<B>, cache: &mut Cache<B>, input: &ModelInput<B>) -> Tensor<B, 2> {
    let hidden = model.hidden_states(input, Some(cache));
    let rows = hidden.dims()[0];
    model.logits(hidden.narrow(0, rows - 1, 1))
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
        for temperature in [0.0, 1.0] {
            let sampling = SamplingOptions { temperature, ..SamplingOptions::default() };
            let options = GenerateOptions { max_tokens: 4, sampling, ..GenerateOptions::default() };
            // The steps after the first have no token to start from.
            for count in [1, 3] {
                let (mut cache, mut bursts) = (Cache::new(2), Bursts::fixed(count));
                let run =
                    generate_in(&model, &tokenizer(), &mut cache, &[1, 2], &options, &device, &mut bursts, &mut |_| {});
                assert!(matches!(run, Err(ModelError::NonFinite)), "{run:?}");
                assert_eq!(cache.len(), 2);
            }
        }
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
    fn steps_that_are_queued_together_give_the_same_text() {
        let (config, tokenizer, device) = (config(), tokenizer(), Default::default());
        let prompt: Vec<u32> = (0..7).collect();
        for seed in 0..6 {
            let model = LanguageModel::<Flex>::random(&config, seed, &device).unwrap();
            let run = |count: usize, options: &GenerateOptions| {
                let (mut cache, mut pieces) = (model.new_cache(), String::new());
                let mut bursts = Bursts::fixed(count);
                let on_text = &mut |piece: &str| pieces.push_str(piece);
                let run = generate_in(&model, &tokenizer, &mut cache, &prompt, options, &device, &mut bursts, on_text);
                let generated = run.unwrap();
                assert_eq!(generated.text, pieces);
                assert_eq!(cache.len(), prompt.len() + generated.tokens.len() - 1);
                // What comes next does not depend on steps that were queued and not used.
                let more = [&prompt[..], &generated.tokens].concat();
                let begun = cache.len();
                let logits = last_logits(&model, &mut cache, &more[begun..], &device);
                (generated.tokens, generated.finish, generated.text, logits)
            };
            let sampling = SamplingOptions { temperature: 0.9 * (seed % 2) as f32, seed, ..SamplingOptions::default() };
            let plain = GenerateOptions { max_tokens: 11, sampling, ..GenerateOptions::default() };
            let (tokens, ..) = run(1, &plain);
            let ends = GenerateOptions { end_tokens: vec![tokens[4]], ..plain.clone() };
            let stops = GenerateOptions { stop: vec![format!("t{}", tokens[6])], ..plain.clone() };
            for options in [plain, ends, stops] {
                let expected = run(1, &options);
                for count in [2, 3, 8, 100] {
                    assert_eq!(run(count, &options), expected, "{count} at a time, {options:?}");
                }
            }
        }
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
