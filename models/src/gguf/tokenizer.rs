//! The tokenizer that a file's metadata describes.
//!
//! Source: `llama-vocab.cpp` of llama.cpp for what each key means and for the patterns of the pre-tokenizers;
//! `convert_slow_tokenizer.py` of transformers for merges from scores.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::metadata::Metadata;
use crate::error::{ModelError, Result};
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// Splits as Llama 3 does.
pub const LLAMA3_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Splits as Qwen 2 does.
pub const QWEN2_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Kinds of tokens, `llama_token_type`.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

fn refuse(reason: impl Into<String>) -> ModelError {
    ModelError::Tokenizer { reason: reason.into() }
}

pub(super) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens> {
    let tokens = metadata.texts("tokenizer.ggml.tokens").ok_or_else(|| refuse("the GGUF has no `tokenizer.ggml.tokens`"))?;
    let token = |key: &str| {
        let id = metadata.number(&format!("tokenizer.ggml.{key}_token_id"))?;
        tokens.get(id).map(|text| ((*text).to_owned(), id as u32))
    };
    let sentence_piece = metadata.text("tokenizer.ggml.model") == Some("llama");
    let flag = |key: &str| metadata.flag(&format!("tokenizer.ggml.{key}"));
    let bos = token("bos");
    Ok(SpecialTokens {
        // llama.cpp adds a start token to SentencePiece vocabularies unless told otherwise.
        add_bos: flag("add_bos_token").unwrap_or(sentence_piece) && bos.is_some(),
        add_eos: flag("add_eos_token").unwrap_or(false),
        bos,
        eos: token("eos"),
        pad: token("padding"),
        unk: token("unknown"),
    })
}

pub(super) fn build(metadata: &Metadata) -> Result<Tokenizer> {
    let special = special_tokens(metadata)?;
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap_or_default();
    let mut json = match metadata.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(metadata, &tokens)?,
        Some("llama") => sentence_piece(metadata, &tokens)?,
        other => return Err(refuse(format!("the kind `{}` is not supported", other.unwrap_or("(none)")))),
    };
    json["added_tokens"] = added_tokens(metadata, &tokens);
    let inner: tokenizers::Tokenizer =
        serde_json::from_value(json).map_err(|error| refuse(format!("the GGUF's vocabulary is inconsistent: {error}")))?;
    Ok(Tokenizer::new(inner, special))
}

fn vocabulary(tokens: &[&str]) -> Value {
    tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
}

fn added_tokens(metadata: &Metadata, tokens: &[&str]) -> Value {
    let kinds = metadata.floats("tokenizer.ggml.token_type").unwrap_or_default();
    let added = tokens.iter().zip(&kinds).enumerate().filter(|(_, (token, kind))| {
        // Runs of spaces are ordinary pieces of a SentencePiece vocabulary, found by merging.
        **kind == CONTROL || (**kind == USER_DEFINED && !token.contains('\u{2581}'))
    });
    added
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            })
        })
        .collect()
}

/// Byte-level BPE, as GPT-2 and its many heirs.
fn byte_level(metadata: &Metadata, tokens: &[&str]) -> Result<Value> {
    let merges = metadata.texts("tokenizer.ggml.merges").ok_or_else(|| refuse("the GGUF has no `tokenizer.ggml.merges`"))?;
    let plain = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let bytes_only = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let split = |pattern: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            bytes_only,
        ] })
    };
    let kind = metadata.text("tokenizer.ggml.pre").unwrap_or("default");
    let pre_tokenizer = match kind {
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => {
            json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            plain,
        ] })
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => split(LLAMA3_PATTERN),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => split(QWEN2_PATTERN),
        "gpt-2" | "default" | "phi-2" | "mpt" | "olmo" | "jais" => plain,
        other => return Err(refuse(format!("the pre-tokenizer `{other}` is not supported"))),
    };
    Ok(json!({
        "version": "1.0",
        "pre_tokenizer": pre_tokenizer,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "vocab": vocabulary(tokens), "merges": merges,
            "ignore_merges": kind.starts_with("llama"),
        },
    }))
}

/// SentencePiece BPE: pieces joined best score first, bytes for what is left.
fn sentence_piece(metadata: &Metadata, tokens: &[&str]) -> Result<Value> {
    let scores =
        metadata.floats("tokenizer.ggml.scores").ok_or_else(|| refuse("the GGUF has no `tokenizer.ggml.scores`"))?;
    if scores.len() != tokens.len() {
        return Err(refuse(format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let kinds = metadata.floats("tokenizer.ggml.token_type").unwrap_or_default();
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if kinds.get(id).is_some_and(|kind| *kind == CONTROL) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((scores[id], *left_id, *right_id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let merges: Vec<Value> = merges.into_iter().map(|(_, _, _, left, right)| json!([left, right])).collect();
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
    let unknown = metadata.number("tokenizer.ggml.unknown_token_id").and_then(|id| tokens.get(id).copied());
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
