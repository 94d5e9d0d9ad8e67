//! Converts between text and token ids.

mod folder;
pub(crate) mod sentencepiece;

use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};

/// The special tokens of a tokenizer, with text and id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The token that begins a text.
    pub bos: Option<(String, u32)>,
    /// The token that ends a text.
    pub eos: Option<(String, u32)>,
    /// The ids of tokens that end a generated text, such as the end of a message. `eos` can be among them.
    pub end: Vec<u32>,
    /// The token that pads short rows.
    pub pad: Option<(String, u32)>,
    /// The token for text that is not in the vocabulary.
    pub unk: Option<(String, u32)>,
    /// Whether encoding puts `bos` first.
    pub add_bos: bool,
    /// Whether encoding puts `eos` last.
    pub add_eos: bool,
}

/// Token ids, and for each of them the start and the end of its bytes in the text.
pub type Offsets = (Vec<u32>, Vec<(usize, usize)>);

/// More bytes than most tokens have.
const BYTES_OF_A_TOKEN: usize = 8;
/// Texts up to about this number of bytes are encoded as a whole.
const SHORT_TEXT: usize = 64 << 10;
/// Within this number of bytes before a cut, tokens may differ from those of the whole text. It is far more than a normalizer,
/// a pre-tokenizer or merges look ahead.
const UNSETTLED: usize = 4 << 10;

/// A tokenizer with its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    /// The special tokens that are added to every text.
    around: Around,
    /// The token that ends a text according to the model, for a tokenizer without `eos`.
    end: Option<u32>,
}

/// The ids that are added before and after every text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
}

/// The first tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The ids.
    pub ids: Vec<u32>,
    /// The start and the end of the bytes of each, as in [`Tokenizer::encode_with_offsets`].
    pub offsets: Vec<(usize, usize)>,
    /// Whether the text has no more tokens.
    pub whole: bool,
}

impl Tokenizer {
    /// Wraps a tokenizer. `special` decides which tokens are added to a text; the tokenizer's post-processor is ignored.
    pub fn new(inner: tokenizers::Tokenizer, special: SpecialTokens) -> Self {
        let id = |token: &Option<(String, u32)>, is_added: bool| {
            token.iter().filter(|_| is_added).map(|(_, id)| *id).collect::<Vec<u32>>()
        };
        let around = Around { before: id(&special.bos, special.add_bos), after: id(&special.eos, special.add_eos) };
        Self::with_around(inner, special, around)
    }

    fn with_around(mut inner: tokenizers::Tokenizer, special: SpecialTokens, around: Around) -> Self {
        // Some files have the truncation and padding of the program that wrote them.
        inner.with_padding(None);
        inner.with_truncation(None).ok();
        Self { inner, special, around, end: None }
    }

    /// Sets the token that ends a text for a tokenizer without `eos`, as `config.json` names it.
    pub fn set_end_of_text(&mut self, id: u32) {
        self.end = Some(id);
    }

    /// The token that ends a text: `eos`, or else that of [`Tokenizer::set_end_of_text`].
    pub fn end_of_text(&self) -> Option<u32> {
        self.special.eos.as_ref().map(|(_, id)| *id).or(self.end)
    }

    /// The ids of a text. The text of a special token becomes that token. With `add_special_tokens`, the tokens that the tokenizer
    /// puts before and after every text are added.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer fails.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| refused(&*error))?;
        let (before, after) = self.added(add_special_tokens);
        Ok([before, encoding.get_ids(), after].concat())
    }

    /// The ids of a text that is to be continued: with the tokens that the tokenizer puts before every text, unless it already
    /// begins with them, and without those after it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text, false)?;
        let before = &self.around.before;
        let begun = !before.is_empty() && ids.first() == before.first();
        Ok(if begun { ids } else { [before, &ids[..]].concat() })
    }

    /// As [`Tokenizer::encode`], with the start and the end of the bytes of each token in the text. Added tokens have no bytes.
    /// Tokens that are parts of one character all have its bytes.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer fails.
    pub fn encode_with_offsets(&self, text: &str, add_special_tokens: bool) -> Result<Offsets> {
        let encoding = self.inner.encode(text, false).map_err(|error| refused(&*error))?;
        let (before, after) = self.added(add_special_tokens);
        let ids = [before, encoding.get_ids(), after].concat();
        let mut offsets = vec![(0, 0); before.len()];
        offsets.extend_from_slice(encoding.get_offsets());
        offsets.resize(ids.len(), (text.len(), text.len()));
        Ok((ids, offsets))
    }

    /// The first `max_tokens` tokens of a text. Time and memory depend on their number, not on the length of the text.
    ///
    /// A long text is cut before it is encoded. Only tokens that end well before the cut are used, because the cut changes the
    /// tokens near it.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer fails.
    pub fn encode_start(&self, text: &str, add_special_tokens: bool, max_tokens: usize) -> Result<Start> {
        let mut length = max_tokens.saturating_mul(BYTES_OF_A_TOKEN).max(SHORT_TEXT);
        // Encoding more than half of the text twice would take longer than encoding all of it once.
        while length < text.len() / 2 {
            let cut = (0..=length).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let (mut ids, mut offsets) = self.encode_with_offsets(&text[..cut], add_special_tokens)?;
            let settled = offsets.iter().take_while(|(_, end)| end + UNSETTLED < cut).count();
            if settled > max_tokens {
                ids.truncate(max_tokens);
                offsets.truncate(max_tokens);
                return Ok(Start { ids, offsets, whole: false });
            }
            length = length.saturating_mul(4);
        }
        let (mut ids, mut offsets) = self.encode_with_offsets(text, add_special_tokens)?;
        let whole = ids.len() <= max_tokens;
        ids.truncate(max_tokens);
        offsets.truncate(max_tokens);
        Ok(Start { ids, offsets, whole })
    }

    fn added(&self, add_special_tokens: bool) -> (&[u32], &[u32]) {
        if add_special_tokens { (&self.around.before, &self.around.after) } else { (&[], &[]) }
    }

    /// The text of ids, without special tokens if `skip_special_tokens` is true.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| refused(&*error))
    }

    /// The contents of `tokenizer.json`. Its post-processor adds the same tokens to a text as [`Tokenizer::encode`], even if they
    /// come from `tokenizer_config.json` or the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if a part of the tokenizer can't be written.
    pub fn to_json(&self) -> Result<String> {
        if folder::template_of(&self.inner)? == self.around {
            return self.inner.to_string(true).map_err(|error| refused(&*error));
        }
        let mut json = serde_json::to_value(&self.inner).map_err(|error| refused(&error))?;
        json["post_processor"] = self.post_processor()?;
        Ok(format!("{json:#}"))
    }

    fn post_processor(&self) -> Result<Value> {
        let Around { before, after } = &self.around;
        let mut tokens = Map::new();
        let mut pieces = |ids: &[u32]| -> Result<Vec<Value>> {
            let piece = |id: &u32| {
                let unknown = || ModelError::Tokenizer { reason: format!("no token has the id {id}") };
                let text = self.inner.id_to_token(*id).ok_or_else(unknown)?;
                tokens.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
                Ok(json!({ "SpecialToken": { "id": text, "type_id": 0 } }))
            };
            ids.iter().map(piece).collect()
        };
        let (before, after) = (pieces(before)?, pieces(after)?);
        if tokens.is_empty() {
            return Ok(Value::Null);
        }
        let sequence = |id: &str| vec![json!({ "Sequence": { "id": id, "type_id": 0 } })];
        let single = [before.clone(), sequence("A"), after.clone()].concat();
        let pair = [single.clone(), before, sequence("B"), after].concat();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens }))
    }

    /// The wrapped tokenizer.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The size of the vocabulary: the number of tokens, or the largest id plus 1 if that is more.
    pub fn vocab_size(&self) -> usize {
        let largest = self.inner.get_added_tokens_decoder().into_keys().max().map_or(0, |id| id as usize + 1);
        self.inner.get_vocab_size(true).max(largest)
    }

    /// Whether an id is that of a special token, which [`Tokenizer::decode`] can skip.
    pub fn is_special(&self, id: u32) -> bool {
        let named = [&self.special.bos, &self.special.eos, &self.special.pad];
        named.into_iter().flatten().any(|(_, special)| *special == id)
            || self
                .inner
                .get_added_vocabulary()
                .simple_id_to_token(id)
                .is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

/// The text of a token, which is given as a string or as an object with `content`.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn refused(error: &(dyn std::error::Error + Send + Sync)) -> ModelError {
    ModelError::Tokenizer { reason: error.to_string() }
}
