//! Reads the tokenizer of a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::{Around, SpecialTokens, Tokenizer, sentencepiece, token_text};
use crate::error::{ModelError, Result};
use crate::json_file::read_if_present;

/// What `tokenizers` 0.22 reads without expecting errors: it panics if this part is not JSON.
#[derive(Deserialize)]
struct Checked {
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or else the `tokenizer.model` of SentencePiece, and `tokenizer_config.json`, `special_tokens_map.json`
    /// and `added_tokens.json` if they exist.
    ///
    /// # Errors
    /// A [`ModelError`] that names the file that is missing or malformed.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let (path, model) = (folder.join("tokenizer.json"), folder.join(SENTENCE_PIECE));
        let config = read_if_present(&folder.join("tokenizer_config.json"))?;
        let map = read_if_present(&folder.join("special_tokens_map.json"))?;
        let added = read_if_present(&folder.join("added_tokens.json"))?;
        if !path.exists() && model.exists() {
            let bytes = std::fs::read(&model).map_err(|error| ModelError::io(&model, error))?;
            return Self::from_sentence_piece(&bytes, &config, &map, &added).map_err(|error| named_file(&model, &error));
        }
        let bytes = std::fs::read(&path).map_err(|error| missing(folder).unwrap_or_else(|| ModelError::io(&path, error)))?;
        Self::from_json(&bytes, &config, &map, &added).map_err(|error| named_file(&path, &error))
    }

    /// Builds a tokenizer from the contents of `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`. The last three can be null.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the first is not a tokenizer, or the tokens of the others don't fit it.
    pub fn from_json(tokenizer: &[u8], config: &Value, map: &Value, added: &Value) -> Result<Self> {
        let not_one = |error: &dyn std::fmt::Display| refuse(format!("not a tokenizer: {error}"));
        serde_json::from_slice::<Checked>(tokenizer).map_err(|error| not_one(&error))?;
        let inner = tokenizers::Tokenizer::from_bytes(tokenizer).map_err(|error| not_one(&error))?;
        Self::with_files(inner, config, map, added)
    }

    /// As [`Tokenizer::from_json`], from the contents of SentencePiece's `tokenizer.model`, as transformers converts it.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the first is not a SentencePiece model of BPE or Unigram, or the tokens of the others don't fit it.
    pub fn from_sentence_piece(model: &[u8], config: &Value, map: &Value, added: &Value) -> Result<Self> {
        let (json, config) = sentencepiece::convert(model, config, map).map_err(refuse)?;
        let inner =
            serde_json::from_value(json).map_err(|error| refuse(format!("its vocabulary is inconsistent: {error}")))?;
        Self::with_files(inner, &config, map, added)
    }

    fn with_files(mut inner: tokenizers::Tokenizer, config: &Value, map: &Value, added: &Value) -> Result<Self> {
        add_missing(&mut inner, config, added)?;
        let named = |key: &str| {
            let text = [config, map].into_iter().find_map(|file| token_text(file.get(key)?))?;
            let id = inner.token_to_id(text)?;
            Some((text.to_owned(), id))
        };
        let mut special = SpecialTokens {
            bos: named("bos_token"),
            eos: named("eos_token"),
            end: Vec::new(),
            pad: named("pad_token"),
            unk: named("unk_token"),
            add_bos: false,
            add_eos: false,
        };
        let Around { mut before, mut after } = template_of(&inner)?;
        if let (Some((_, bos)), Some(is_added)) = (&special.bos, flag(config, "add_bos_token")) {
            before.retain(|id| id != bos);
            if is_added {
                before.insert(0, *bos);
            }
        }
        if let (Some((_, eos)), Some(is_added)) = (&special.eos, flag(config, "add_eos_token")) {
            after.retain(|id| id != eos);
            if is_added {
                after.push(*eos);
            }
        }
        special.add_bos = special.bos.as_ref().is_some_and(|(_, id)| before.contains(id));
        special.add_eos = special.eos.as_ref().is_some_and(|(_, id)| after.contains(id));
        Ok(Self::with_around(inner, special, Around { before, after }))
    }
}

/// The file of SentencePiece.
const SENTENCE_PIECE: &str = "tokenizer.model";
/// The files of tokenizers in other formats.
const OTHER_FILES: [&str; 4] = ["spiece.model", "tekken.json", "vocab.json", "vocab.txt"];

fn refuse(reason: String) -> ModelError {
    ModelError::Tokenizer { reason }
}

/// The error of a tokenizer, with its file.
fn named_file(path: &Path, error: &ModelError) -> ModelError {
    ModelError::format(path, error.to_string().replacen("tokenizer: ", "", 1))
}

/// The error for a folder that has another file instead of `tokenizer.json`.
fn missing(folder: &Path) -> Option<ModelError> {
    let path = folder.join("tokenizer.json");
    let other = OTHER_FILES.into_iter().find(|file| folder.join(file).exists()).filter(|_| !path.exists())?;
    let reason = format!(
        "expected tokenizer.json, got `{other}`; to convert it, call \
         AutoTokenizer.from_pretrained(\"{0}\").save_pretrained(\"{0}\") of transformers",
        folder.display()
    );
    Some(ModelError::Tokenizer { reason })
}

/// The tokens that the tokenizer's own post-processor adds to a text.
pub(super) fn template_of(inner: &tokenizers::Tokenizer) -> Result<Around> {
    let encode = |special: bool| {
        inner
            .encode("a", special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| ModelError::Tokenizer { reason: error.to_string() })
    };
    let (bare, full) = (encode(false)?, encode(true)?);
    let at = (0..=full.len().saturating_sub(bare.len())).find(|at| full[*at..].starts_with(&bare));
    Ok(match at {
        Some(at) => Around { before: full[..at].to_vec(), after: full[at + bare.len()..].to_vec() },
        None => Around::default(),
    })
}

/// Adds the tokens that `tokenizer.json` lacks. They must get the ids that the other files give them.
fn add_missing(inner: &mut tokenizers::Tokenizer, config: &Value, added: &Value) -> Result<()> {
    let mut tokens = BTreeMap::new();
    for (text, id) in added.as_object().into_iter().flatten() {
        if let Some(id) = id.as_u64() {
            tokens.insert(id, AddedToken::from(text.as_str(), false).normalized(false));
        }
    }
    for (id, entry) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let (Ok(id), Some(text)) = (id.parse::<u64>(), token_text(entry)) else {
            return Err(ModelError::Tokenizer {
                reason: format!("`added_tokens_decoder`: expected an id with a token, got {id:?}"),
            });
        };
        let is = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
        let token = AddedToken::from(text, is("special"))
            .normalized(is("normalized"))
            .single_word(is("single_word"))
            .lstrip(is("lstrip"))
            .rstrip(is("rstrip"));
        tokens.insert(id, token);
    }
    for (id, token) in tokens {
        if inner.token_to_id(&token.content).is_some() {
            continue;
        }
        let text = token.content.clone();
        if token.special {
            inner.add_special_tokens(&[token]);
        } else {
            inner.add_tokens(&[token]);
        }
        let got = inner.token_to_id(&text);
        if got.map(u64::from) != Some(id) {
            let reason = format!("the added token {text:?}: expected id {id}, got {got:?}");
            return Err(ModelError::Tokenizer { reason });
        }
    }
    Ok(())
}

fn flag(config: &Value, key: &str) -> Option<bool> {
    config.get(key).and_then(Value::as_bool)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer_json() -> Vec<u8> {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [
                {"id": 0, "content": "<s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false},
                {"id": 1, "content": "</s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}
            ],
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"<s>": 0, "</s>": 1, "?": 2, "hi": 3, "you": 4}}
        })
        .to_string()
        .into_bytes()
    }

    fn build(config: Value) -> Result<Tokenizer> {
        Tokenizer::from_json(&tokenizer_json(), &config, &Value::Null, &Value::Null)
    }

    #[test]
    fn the_post_processor_decides_which_tokens_are_added() {
        let tokenizer = build(json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}})).unwrap();
        assert_eq!(tokenizer.encode("hi you", true).unwrap(), [0, 3, 4]);
        assert_eq!(tokenizer.encode("hi you", false).unwrap(), [3, 4]);
        assert_eq!(tokenizer.special().eos, Some(("</s>".into(), 1)));
        assert!(tokenizer.special().add_bos && !tokenizer.special().add_eos);
        let (ids, offsets) = tokenizer.encode_with_offsets("hi you", true).unwrap();
        assert_eq!((ids.len(), offsets), (3, vec![(0, 0), (0, 2), (3, 6)]));
    }

    #[test]
    fn flags_take_precedence_over_the_post_processor() {
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true});
        assert_eq!(build(config).unwrap().encode("hi", true).unwrap(), [3, 1]);
    }

    #[test]
    fn tokens_of_the_configuration_are_added_with_their_ids() {
        let entry = json!({"content": "<|end|>", "special": true});
        let tokenizer = build(json!({"added_tokens_decoder": {"5": entry}})).unwrap();
        assert_eq!(tokenizer.encode("hi<|end|>you", false).unwrap(), [3, 5, 4]);
        assert!(tokenizer.is_special(5) && !tokenizer.is_special(3));
        assert_eq!(tokenizer.vocab_size(), 6);
        let wrong = build(json!({"added_tokens_decoder": {"9": entry}})).unwrap_err();
        assert!(wrong.to_string().contains("expected id 9"), "{wrong}");
    }

    #[test]
    fn the_special_tokens_map_is_used_for_tokens_that_the_configuration_lacks() {
        let map = json!({"eos_token": {"content": "</s>"}});
        let tokenizer = Tokenizer::from_json(&tokenizer_json(), &Value::Null, &map, &Value::Null).unwrap();
        assert_eq!(tokenizer.special().eos, Some(("</s>".into(), 1)));
    }

    #[test]
    fn the_error_for_another_tokenizer_file_says_how_to_convert_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("spiece.model"), b"x").unwrap();
        let error = Tokenizer::from_folder(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Tokenizer { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("got `spiece.model`") && text.contains("save_pretrained"), "{text}");
    }

    #[test]
    fn the_first_tokens_of_a_long_text_are_those_of_the_whole_text() {
        let tokenizer = build(json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true})).unwrap();
        let text = "hi you  ".repeat(100_000);
        let (ids, offsets) = tokenizer.encode_with_offsets(&text, true).unwrap();
        for count in [1, 1000, 30_000, 199_999, 200_001, 300_000] {
            let start = tokenizer.encode_start(&text, true, count).unwrap();
            let kept = count.min(ids.len());
            assert_eq!((&start.ids[..], &start.offsets[..]), (&ids[..kept], &offsets[..kept]), "{count}");
            assert_eq!(start.whole, count >= ids.len(), "{count}");
        }
        // A part of a single long token has other tokens, so the whole text is encoded.
        let word = "a".repeat(1 << 20);
        let start = tokenizer.encode_start(&word, true, 3).unwrap();
        assert_eq!((start.ids, start.whole), (tokenizer.encode(&word, true).unwrap(), true));
    }

    #[test]
    fn a_prompt_has_one_start_token_and_no_end_token() {
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": true});
        let tokenizer = build(config).unwrap();
        assert_eq!(tokenizer.encode_prompt("hi").unwrap(), [0, 3]);
        assert_eq!(tokenizer.encode_prompt("<s>hi").unwrap(), [0, 3]);
        assert_eq!(tokenizer.encode_prompt("").unwrap(), [0]);
    }

    #[test]
    fn the_end_token_of_the_model_is_used_without_an_eos_token() {
        let mut tokenizer = build(json!({})).unwrap();
        assert_eq!(tokenizer.end_of_text(), None);
        tokenizer.set_end_of_text(1);
        assert_eq!((tokenizer.end_of_text(), &tokenizer.special().eos), (Some(1), &None));
        let mut own = build(json!({"eos_token": "</s>"})).unwrap();
        own.set_end_of_text(4);
        assert_eq!(own.end_of_text(), Some(1));
    }

    #[test]
    fn an_invalid_file_is_an_error() {
        assert!(Tokenizer::from_json(b"{}", &Value::Null, &Value::Null, &Value::Null).is_err());
        let nowhere = std::path::Path::new("/nonexistent/folder");
        assert!(matches!(Tokenizer::from_folder(nowhere), Err(ModelError::Io { .. })));
    }

    #[test]
    fn added_tokens_are_written_to_the_post_processor() {
        for (bos, eos, expected) in [(true, true, &[0, 3, 1][..]), (false, true, &[3, 1]), (false, false, &[3])] {
            let flags = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": bos, "add_eos_token": eos});
            let written = build(flags).unwrap().to_json().unwrap();
            // A reader of this file alone adds the same tokens.
            let read = tokenizers::Tokenizer::from_bytes(written.as_bytes()).unwrap();
            assert_eq!(read.encode("hi", true).unwrap().get_ids(), expected);
        }
    }
}
