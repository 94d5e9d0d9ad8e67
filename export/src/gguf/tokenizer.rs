//! The tokenizer as llama.cpp keeps it.
//!
//! Source: `gguf-py/gguf/vocab.py` and `convert_hf_to_gguf.py` of llama.cpp.

use std::collections::HashMap;

use burnish_models::gguf::{DEFAULT_PATTERNS, LLAMA3_PATTERN, Metadata, QWEN2_PATTERN, Value};
use burnish_models::{ChatTemplate, Pretrained};
use serde_json::Value as Json;

use super::{number, set, text};
use crate::error::{ExportError, Result};
use crate::report::ExportReport;

/// Kinds of tokens, `llama_token_type`.
#[derive(Clone, Copy)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

pub(super) fn add(metadata: &mut Metadata, model: &Pretrained, report: &mut ExportReport) -> Result<()> {
    let json = model
        .tokenizer
        .inner()
        .to_string(false)
        .ok()
        .and_then(|text| serde_json::from_str::<Json>(&text).ok())
        .ok_or_else(|| ExportError::unsupported("the tokenizer can't be written as JSON"))?;
    let bpe = &json["model"];
    if bpe["type"].as_str() != Some("BPE") {
        return Err(ExportError::unsupported(format!("GGUF has no place for a tokenizer of type {}", bpe["type"])));
    }
    let size = model.config.vocab_size;
    leave_out(&json, size, report)?;
    let mut tokens: Vec<Option<(String, Kind)>> = vec![None; size];
    let byte_fallback = bpe["byte_fallback"].as_bool() == Some(true);
    for (token, id) in bpe["vocab"].as_object().into_iter().flatten() {
        let Some(slot) = id.as_u64().and_then(|id| tokens.get_mut(id as usize)) else { continue };
        let is_byte = byte_fallback && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        *slot = Some((token.clone(), if is_byte { Kind::Byte } else { Kind::Normal }));
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (added["id"].as_u64(), added["content"].as_str()) else { continue };
        let kind = if added["special"].as_bool() == Some(true) { Kind::Control } else { Kind::UserDefined };
        if let Some(slot) = tokens.get_mut(id as usize) {
            *slot = Some((content.to_owned(), kind));
        }
    }
    let special = model.tokenizer.special();
    if let Some(Some(slot)) =
        special.unk.as_ref().filter(|_| byte_fallback).map(|(_, id)| tokens.get_mut(*id as usize).and_then(Option::as_mut))
    {
        slot.1 = Kind::Unknown;
    }
    let named: Vec<(String, Kind)> = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), Kind::Unused)))
        .collect();
    let merges = merges(bpe);
    if byte_fallback {
        set(metadata, "tokenizer.ggml.model", text("llama"));
        set(metadata, "tokenizer.ggml.scores", scores(&named, &merges));
        set(metadata, "tokenizer.ggml.add_space_prefix", Value::Bool(has_prefix(&json)));
    } else {
        set(metadata, "tokenizer.ggml.model", text("gpt2"));
        set(metadata, "tokenizer.ggml.pre", text(pre_tokenizer(&json["pre_tokenizer"])?));
        let joined = merges.iter().map(|(left, right)| text(format!("{left} {right}"))).collect();
        set(metadata, "tokenizer.ggml.merges", Value::List(joined));
    }
    set(
        metadata,
        "tokenizer.ggml.token_type",
        Value::List(named.iter().map(|(_, kind)| Value::Signed(*kind as i64)).collect()),
    );
    set(metadata, "tokenizer.ggml.tokens", Value::List(named.into_iter().map(|(token, _)| text(token)).collect()));
    let id = |token: &Option<(String, u32)>| token.as_ref().map(|(_, id)| *id);
    let ids = [
        ("bos", id(&special.bos)),
        ("eos", model.tokenizer.end_of_text()),
        ("padding", id(&special.pad)),
        ("unknown", id(&special.unk)),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            set(metadata, &format!("tokenizer.ggml.{key}_token_id"), number(id as usize));
        }
    }
    set(metadata, "tokenizer.ggml.add_bos_token", Value::Bool(special.add_bos));
    set(metadata, "tokenizer.ggml.add_eos_token", Value::Bool(special.add_eos));
    if let Some(template) = &model.chat_template {
        add_chat_templates(metadata, template);
    }
    Ok(())
}

/// Notes the added tokens that the embedding has no row for, which llama.cpp's converter leaves out too: no text can use them.
/// Other tokens without a row are refused.
fn leave_out(json: &Json, rows: usize, report: &mut ExportReport) -> Result<()> {
    let is_beyond = |id: &Json| id.as_u64().is_some_and(|id| id >= rows as u64);
    let added = json["added_tokens"].as_array().into_iter().flatten().filter(|token| is_beyond(&token["id"]));
    let added: Vec<&str> = added.filter_map(|token| token["content"].as_str()).collect();
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let count = vocabulary.filter(|(token, id)| is_beyond(id) && !added.contains(&token.as_str())).count();
    if count > 0 {
        return Err(ExportError::unsupported(format!(
            "{count} tokens of the tokenizer have no row in the embedding of {rows}: llama.cpp refuses such a file"
        )));
    }
    if !added.is_empty() {
        report.notes.push(format!("left out tokens that the embedding has no row for: {}", added.join(", ")));
    }
    Ok(())
}

/// Writes every chat template under the key that llama.cpp reads it by.
fn add_chat_templates(metadata: &mut Metadata, template: &ChatTemplate) {
    let (default, named): (Vec<_>, Vec<_>) = template.sources().partition(|(name, _)| *name == "default");
    for (_, source) in default {
        set(metadata, "tokenizer.chat_template", text(source));
    }
    for (name, source) in &named {
        set(metadata, &format!("tokenizer.chat_template.{name}"), text(*source));
    }
    if !named.is_empty() {
        set(metadata, "tokenizer.chat_templates", Value::List(named.iter().map(|(name, _)| text(*name)).collect()));
    }
}

/// Merges in order, whichever of the two forms the JSON has.
fn merges(bpe: &Json) -> Vec<(String, String)> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Json::Array(parts) => Some((parts.first()?.as_str()?.to_owned(), parts.get(1)?.as_str()?.to_owned())),
        _ => None,
    };
    bpe["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// Scores that make llama.cpp join pieces in the order of the merges: the earlier, the higher.
fn scores(tokens: &[(String, Kind)], merges: &[(String, String)]) -> Value {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (index, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(index);
    }
    let score = |token: &String| match rank.get(token) {
        Some(index) => -(*index as f64),
        None => -(merges.len() as f64) - 1.0,
    };
    Value::List(tokens.iter().map(|(token, _)| Value::Float(score(token))).collect())
}

/// The steps of a normalizer or pre-tokenizer: one, or a `Sequence` of them.
fn steps<'a>(json: &'a Json, list: &str) -> Vec<&'a Json> {
    json[list].as_array().map_or_else(|| vec![json], |steps| steps.iter().collect())
}

/// Whether normalizer or pre-tokenizer put a space before the text.
fn has_prefix(json: &Json) -> bool {
    let prepends = |step: &&Json| match step["type"].as_str() {
        Some("Prepend") => true,
        Some("Metaspace") => match step["prepend_scheme"].as_str() {
            Some(scheme) => scheme != "never",
            None => step["add_prefix_space"].as_bool() != Some(false),
        },
        _ => false,
    };
    steps(&json["normalizer"], "normalizers").iter().any(prepends)
        || steps(&json["pre_tokenizer"], "pretokenizers").iter().any(prepends)
}

/// llama.cpp's name of a byte-level pre-tokenizer. Patterns that look alike split differently, so they must be equal.
fn pre_tokenizer(json: &Json) -> Result<&'static str> {
    let steps = steps(json, "pretokenizers");
    let patterns: Vec<&str> = steps.iter().filter_map(|step| step["pattern"]["Regex"].as_str()).collect();
    if patterns == DEFAULT_PATTERNS {
        return Ok("default");
    }
    for step in &steps {
        match step["type"].as_str() {
            Some("Digits") if step["individual_digits"].as_bool() == Some(true) => return Ok("smollm"),
            Some("Split") => {
                return match step["pattern"]["Regex"].as_str() {
                    Some(LLAMA3_PATTERN) => Ok("llama-bpe"),
                    Some(QWEN2_PATTERN) => Ok("qwen2"),
                    pattern => Err(ExportError::unsupported(format!(
                        "llama.cpp has no pre-tokenizer for the pattern {}",
                        pattern.unwrap_or_default()
                    ))),
                };
            }
            _ => {}
        }
    }
    if steps.iter().any(|step| step["type"].as_str() == Some("ByteLevel")) {
        return Ok("gpt-2");
    }
    Err(ExportError::unsupported(format!("llama.cpp has no pre-tokenizer like {json}")))
}

#[cfg(test)]
mod tests {
    use burnish_models::SpecialTokens;
    use serde_json::json;

    use super::*;

    fn split(pattern: &str) -> Json {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern } }, { "type": "ByteLevel", "use_regex": false },
        ] })
    }

    #[test]
    fn pre_tokenizers_are_named_by_their_whole_pattern() {
        assert_eq!(pre_tokenizer(&split(LLAMA3_PATTERN)).unwrap(), "llama-bpe");
        assert_eq!(pre_tokenizer(&split(QWEN2_PATTERN)).unwrap(), "qwen2");
        assert_eq!(pre_tokenizer(&json!({ "type": "ByteLevel", "use_regex": true })).unwrap(), "gpt-2");
        let default = DEFAULT_PATTERNS.map(|pattern| json!({ "type": "Split", "pattern": { "Regex": pattern } }));
        assert_eq!(pre_tokenizer(&json!({ "type": "Sequence", "pretokenizers": default })).unwrap(), "default");
        // As o200k does: numbers alike, letters by case.
        let other = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}]*[\\p{Ll}]+|\\p{N}{1,3}|\\s+";
        assert!(pre_tokenizer(&split(other)).unwrap_err().to_string().contains(other));
    }

    #[test]
    fn added_tokens_without_a_row_are_left_out_and_others_refused() {
        let json = json!({
            "added_tokens": [{ "id": 1, "content": "<eos>" }, { "id": 3, "content": "<image>" }],
            "model": { "vocab": { "a": 0, "<eos>": 1, "b": 2, "<image>": 3 } },
        });
        let mut report = ExportReport::default();
        leave_out(&json, 3, &mut report).unwrap();
        assert!(report.notes.len() == 1 && report.notes[0].ends_with(": <image>"), "{:?}", report.notes);
        assert!(leave_out(&json, 2, &mut report).unwrap_err().to_string().starts_with("1 tokens"));
    }

    #[test]
    fn what_ends_a_text_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/assets/quickstart/model");
        let model = Pretrained::open(source).unwrap();
        crate::export_gguf(&model, &*model.checkpoint, &path, &crate::GgufOptions::default()).unwrap();
        let read = Pretrained::open(&path).unwrap();
        // `<|im_end|>` is its end; `<|endoftext|>` ends a text too, as llama.cpp has it.
        assert_eq!((model.config.eos_token_id.as_slice(), read.config.eos_token_id.as_slice()), (&[2][..], &[2, 0][..]));
        assert_eq!(read.tokenizer.encode("12 a", true).unwrap(), model.tokenizer.encode("12 a", true).unwrap());
        // A folder written of it keeps them.
        let folder = folder.path().join("folder");
        crate::export_hugging_face(&read, &*read.checkpoint, &folder, &crate::HuggingFaceOptions::default()).unwrap();
        let again = Pretrained::open(&folder).unwrap();
        assert_eq!(again.generation_config.unwrap()["eos_token_id"], json!([2, 0]));
        assert_eq!(again.config.eos_token_id, [2, 0]);
    }

    #[test]
    fn every_chat_template_has_its_key() {
        for names in [&["default"][..], &["default", "tool_use", "rag"], &["tool_use"]] {
            let sources: Vec<(String, String)> =
                names.iter().map(|name| ((*name).to_owned(), format!("{name} template"))).collect();
            let template = ChatTemplate::named(sources.clone(), &SpecialTokens::default()).unwrap();
            let mut metadata = Metadata::default();
            add_chat_templates(&mut metadata, &template);
            assert_eq!(metadata.chat_templates(), sources);
        }
    }

    #[test]
    fn a_space_before_the_text_comes_from_either_part() {
        let prefix = |json: &Json| has_prefix(json);
        assert!(prefix(&json!({ "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend" }] } })));
        assert!(prefix(&json!({ "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "first" } })));
        assert!(!prefix(&json!({ "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "never" } })));
        assert!(!prefix(&json!({ "normalizer": { "type": "Replace" }, "pre_tokenizer": null })));
    }
}
