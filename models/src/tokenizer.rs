//! Text to token ids and back.

mod folder;

use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};

/// The tokens that mean something beside text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<(String, u32)>,
    /// Ends a text.
    pub eos: Option<(String, u32)>,
    /// Other tokens that end a generated text, such as the end of a turn; `eos` may be among them.
    pub end: Vec<u32>,
    /// Fills short rows.
    pub pad: Option<(String, u32)>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<(String, u32)>,
    /// Whether encoding puts `bos` first.
    pub add_bos: bool,
    /// Whether encoding puts `eos` last.
    pub add_eos: bool,
}

/// Ids with the byte range of the text that each stands for.
pub type Offsets = (Vec<u32>, Vec<(usize, usize)>);

/// More than most tokens have.
const BYTES_OF_A_TOKEN: usize = 8;
/// Texts up to about this length are never cut.
const SHORT_TEXT: usize = 64 << 10;
/// Bytes before a cut whose tokens may be others than in the whole text: far more than a normalizer, a pattern of the
/// pre-tokenizer, or a chain of merges looks ahead.
const UNSETTLED: usize = 4 << 10;

/// A tokenizer with its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    /// Ids put before a text and after it when special tokens are asked for.
    around: (Vec<u32>, Vec<u32>),
    /// Ends a text where the files of the tokenizer name no such token.
    end: Option<u32>,
}

/// The first tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The bytes of the text that each stands for, as [`Tokenizer::encode_with_offsets`] has them.
    pub offsets: Vec<(usize, usize)>,
    /// Whether they are all: the text has no more.
    pub whole: bool,
}

impl Tokenizer {
    /// Wraps a tokenizer; `special` says what is put around a text, not the tokenizer's own post-processor.
    pub fn new(inner: tokenizers::Tokenizer, special: SpecialTokens) -> Self {
        let id = |token: &Option<(String, u32)>, wanted: bool| {
            token.iter().filter(|_| wanted).map(|(_, id)| *id).collect::<Vec<u32>>()
        };
        let around = (id(&special.bos, special.add_bos), id(&special.eos, special.add_eos));
        Self::with_around(inner, special, around)
    }

    fn with_around(mut inner: tokenizers::Tokenizer, special: SpecialTokens, around: (Vec<u32>, Vec<u32>)) -> Self {
        // Some tokenizer.json files carry the truncation and padding of the run that wrote them.
        inner.with_padding(None);
        inner.with_truncation(None).ok();
        Self { inner, special, around, end: None }
    }

    /// Names the token that ends a text, as `config.json` does, where the tokenizer's own files name none.
    pub fn set_end_of_text(&mut self, id: u32) {
        self.end = Some(id);
    }

    /// The token that ends a text: the tokenizer's `eos_token`, or else what [`Tokenizer::set_end_of_text`] named.
    pub fn end_of_text(&self) -> Option<u32> {
        self.special.eos.as_ref().map(|(_, id)| *id).or(self.end)
    }

    /// Ids of a text. The text of a special token in it becomes that token; `add_special_tokens` asks for the ones that
    /// the tokenizer puts around every text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| refused(&*error))?;
        let (before, after) = self.added(add_special_tokens);
        Ok([before, encoding.get_ids(), after].concat())
    }

    /// Ids of a text that is to be continued: what the tokenizer puts before every text, unless the text begins with it
    /// already, and nothing after.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text, false)?;
        let before = &self.around.0;
        let begun = !before.is_empty() && ids.first() == before.first();
        Ok(if begun { ids } else { [before, &ids[..]].concat() })
    }

    /// As [`Tokenizer::encode`], with the bytes of the text that each token stands for; the range of an added token is
    /// empty. Tokens that are parts of one character all have that character's range.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer refuses the text.
    pub fn encode_with_offsets(&self, text: &str, add_special_tokens: bool) -> Result<Offsets> {
        let encoding = self.inner.encode(text, false).map_err(|error| refused(&*error))?;
        let (before, after) = self.added(add_special_tokens);
        let ids = [before, encoding.get_ids(), after].concat();
        let mut offsets = vec![(0, 0); before.len()];
        offsets.extend_from_slice(encoding.get_offsets());
        offsets.resize(ids.len(), (text.len(), text.len()));
        Ok((ids, offsets))
    }

    /// The first `max_tokens` tokens of a text, in time and memory that grow with them and not with the text.
    ///
    /// A long text is cut, and only tokens that end well before the cut are taken: a cut changes tokens near to it alone.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer refuses the text.
    pub fn encode_start(&self, text: &str, add_special_tokens: bool, max_tokens: usize) -> Result<Start> {
        let mut length = max_tokens.saturating_mul(BYTES_OF_A_TOKEN).max(SHORT_TEXT);
        // A part that is not much shorter than the text saves nothing.
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

    fn added(&self, wanted: bool) -> (&[u32], &[u32]) {
        if wanted { (&self.around.0, &self.around.1) } else { (&[], &[]) }
    }

    /// Text of ids.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| refused(&*error))
    }

    /// `tokenizer.json`. Its post-processor puts around a text what [`Tokenizer::encode`] does, also where only
    /// `tokenizer_config.json` or a GGUF's metadata said so.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when a part of the tokenizer can't be written.
    pub fn to_json(&self) -> Result<String> {
        if folder::template_of(&self.inner)? == self.around {
            return self.inner.to_string(true).map_err(|error| refused(&*error));
        }
        let mut json = serde_json::to_value(&self.inner).map_err(|error| refused(&error))?;
        json["post_processor"] = self.post_processor()?;
        Ok(format!("{json:#}"))
    }

    fn post_processor(&self) -> Result<Value> {
        let (before, after) = &self.around;
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

    /// The wrapped tokenizer, to ask for more.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// One more than the greatest id, or the number of tokens where ids have no gaps.
    pub fn vocab_size(&self) -> usize {
        let greatest = self.inner.get_added_tokens_decoder().into_keys().max().map_or(0, |id| id as usize + 1);
        self.inner.get_vocab_size(true).max(greatest)
    }

    /// Whether an id is a special token: one that [`Tokenizer::decode`] can skip.
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

fn refused(error: &(dyn std::error::Error + Send + Sync)) -> ModelError {
    ModelError::Tokenizer { reason: error.to_string() }
}
