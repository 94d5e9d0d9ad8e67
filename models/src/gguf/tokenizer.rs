//! Builds the tokenizer that the metadata of a GGUF file describes.
//!
//! Source: `llama-vocab.cpp` of llama.cpp for what each key means and for the patterns of the pre-tokenizers;
//! `convert_slow_tokenizer.py` of transformers for merges from scores.

mod llama_cpp;

use std::collections::HashMap;

use serde_json::{Value, json};

pub use llama_cpp::{DEFAULT_PATTERNS, GPT4O_PATTERN, LLAMA3_PATTERN, PATTERNS, QWEN2_PATTERN, TEKKEN_PATTERN};

use self::llama_cpp::{END_TEXTS, Split, adds_bos, end_tokens, ignores_merges, split_of};
use crate::error::{ModelError, Result};
use crate::gguf::metadata::Metadata;
use crate::tokenizer::sentencepiece::merges::Room;
use crate::tokenizer::{SpecialTokens, Tokenizer};

// Kinds of tokens, `llama_token_type`.
const NORMAL: f64 = 1.0;
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

fn refuse(reason: impl Into<String>) -> ModelError {
    ModelError::Tokenizer { reason: reason.into() }
}

pub(super) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens> {
    let tokens = metadata
        .texts("tokenizer.ggml.tokens")
        .ok_or_else(|| refuse("`tokenizer.ggml.tokens` is missing from the GGUF file"))?;
    let named = |id: usize| tokens.get(id).map(|text| ((*text).to_owned(), id as u32));
    let token = |key: &str| named(metadata.number(&format!("tokenizer.ggml.{key}_token_id"))?);
    let sentence_piece = metadata.text("tokenizer.ggml.model") == Some("llama");
    // The ids that llama.cpp assumes for SentencePiece.
    let token_or = |key: &str, id: usize| token(key).or_else(|| named(id).filter(|_| sentence_piece));
    let flag = |key: &str| metadata.flag(&format!("tokenizer.ggml.{key}"));
    let adds_bos = sentence_piece || metadata.text("tokenizer.ggml.pre").is_some_and(adds_bos);
    let bos = token_or("bos", 1);
    let eos = token_or("eos", 2);
    Ok(SpecialTokens {
        add_bos: flag("add_bos_token").unwrap_or(adds_bos) && bos.is_some(),
        add_eos: flag("add_eos_token").unwrap_or(false),
        end: end_tokens(metadata, &tokens),
        bos,
        eos,
        pad: token("padding"),
        unk: token_or("unknown", 0),
    })
}

pub(super) fn build(metadata: &Metadata) -> Result<Tokenizer> {
    let special = special_tokens(metadata)?;
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap_or_default();
    let mut json = match metadata.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(metadata, &tokens)?,
        Some("llama") => sentence_piece(metadata, &tokens)?,
        other => {
            return Err(refuse(format!(
                "`tokenizer.ggml.model`: expected gpt2 or llama, got {}",
                other.unwrap_or("nothing")
            )));
        }
    };
    json["added_tokens"] = added_tokens(metadata, &tokens);
    let inner: tokenizers::Tokenizer = serde_json::from_value(json)
        .map_err(|error| refuse(format!("the vocabulary of the GGUF file is inconsistent: {error}")))?;
    Ok(Tokenizer::new(inner, special))
}

fn vocabulary(tokens: &[&str]) -> Value {
    tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
}

/// The tokens that are found in a text before it is split.
fn added_tokens(metadata: &Metadata, tokens: &[&str]) -> Value {
    let kinds = metadata.floats("tokenizer.ggml.token_type").unwrap_or_default();
    let added = tokens.iter().enumerate().filter_map(|(id, token)| {
        let kind = kinds.get(id).copied().unwrap_or(NORMAL);
        // llama.cpp makes every end token a control token.
        let is_control = kind == CONTROL || kind == UNKNOWN || END_TEXTS.contains(token);
        // Runs of spaces are ordinary tokens of SentencePiece, which merges build.
        let is_added = is_control || (kind == USER_DEFINED && !token.contains('\u{2581}'));
        is_added.then(|| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": is_control,
            })
        })
    });
    added.collect()
}

/// Byte-level BPE, as in GPT-2.
fn byte_level(metadata: &Metadata, tokens: &[&str]) -> Result<Value> {
    let merges = metadata
        .texts("tokenizer.ggml.merges")
        .ok_or_else(|| refuse("`tokenizer.ggml.merges` is missing from the GGUF file"))?;
    let plain = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let bytes_only = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let split = |patterns: &[&str]| {
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let steps: Vec<Value> = patterns.iter().map(split).chain([bytes_only.clone()]).collect();
        json!({ "type": "Sequence", "pretokenizers": steps })
    };
    let kind = metadata.text("tokenizer.ggml.pre").unwrap_or_else(|| {
        tracing::warn!(
            "the GGUF file names no pre-tokenizer: llama.cpp's default patterns are used, which may not be the model's"
        );
        "default"
    });
    let pre_tokenizer = match split_of(kind) {
        Some(Split::Digits) => {
            json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, plain] })
        }
        Some(Split::Pattern(pattern)) => split(&[pattern]),
        Some(Split::Gpt2) => plain,
        Some(Split::Default) => split(&DEFAULT_PATTERNS),
        None => return Err(refuse(format!("the pre-tokenizer `{kind}` (`tokenizer.ggml.pre`) is not supported"))),
    };
    Ok(json!({
        "version": "1.0",
        "pre_tokenizer": pre_tokenizer,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "vocab": vocabulary(tokens), "merges": merges,
            "ignore_merges": ignores_merges(kind),
        },
    }))
}

/// Two tokens that form a third one, with its score.
struct Merge<'a> {
    score: f64,
    left_id: usize,
    right_id: usize,
    parts: [&'a str; 2],
}

/// SentencePiece BPE: the pieces with the best score are merged first, and bytes stand for the rest.
fn sentence_piece(metadata: &Metadata, tokens: &[&str]) -> Result<Value> {
    let scores = metadata
        .floats("tokenizer.ggml.scores")
        .ok_or_else(|| refuse("`tokenizer.ggml.scores` is missing from the GGUF file"))?;
    if scores.len() != tokens.len() {
        return Err(refuse(format!(
            "`tokenizer.ggml.scores`: expected {} scores, one per token, got {}",
            tokens.len(),
            scores.len()
        )));
    }
    let kinds = metadata.floats("tokenizer.ggml.token_type").unwrap_or_default();
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges: Vec<Merge> = Vec::new();
    let mut room = Room::of(tokens.iter().copied());
    for (id, token) in tokens.iter().enumerate() {
        if kinds.get(id).is_some_and(|kind| *kind == CONTROL) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                room.take(token).map_err(refuse)?;
                merges.push(Merge { score: scores[id], left_id: *left_id, right_id: *right_id, parts: [left, right] });
            }
        }
    }
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.left_id.cmp(&b.left_id)).then(a.right_id.cmp(&b.right_id)));
    let merges: Vec<Value> = merges.into_iter().map(|merge| json!(merge.parts)).collect();
    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" })];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "\u{2581}" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = tokens.get(metadata.number("tokenizer.ggml.unknown_token_id").unwrap_or(0)).copied();
    Ok(json!({
        "version": "1.0",
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "vocab": vocabulary(tokens), "merges": merges, "unk_token": unknown,
            "fuse_unk": true, "byte_fallback": true,
        },
    }))
}

#[cfg(test)]
mod tests;
