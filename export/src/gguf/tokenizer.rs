//! The tokenizer of a model under llama.cpp's keys.
//!
//! Source: `gguf-py/gguf/vocab.py` and `convert_hf_to_gguf.py` of llama.cpp.

use std::collections::HashMap;

use burnish_models::gguf::{DEFAULT_PATTERNS, LLAMA3_PATTERN, Metadata, PATTERNS, Value};
use burnish_models::{ChatTemplate, Pretrained};
use serde_json::Value as Json;

use crate::error::{ExportError, Result};
use crate::report::ExportReport;

/// The kind of a token, `llama_token_type`.
#[derive(Clone, Copy)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Adds the tokenizer and the chat templates to the metadata.
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
        return Err(ExportError::unsupported(format!(
            "expected a tokenizer of type BPE, got {}, which GGUF can't represent",
            bpe["type"]
        )));
    }
    let size = model.config.vocab_size;
    check_rows(&json, size, report)?;
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
        metadata.insert("tokenizer.ggml.model", "llama");
        metadata.insert("tokenizer.ggml.scores", scores(&named, &merges));
        metadata.insert("tokenizer.ggml.add_space_prefix", has_prefix(&json));
    } else {
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", pre_tokenizer(&json, report)?);
        let joined: Value = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.insert("tokenizer.ggml.merges", joined);
    }
    let kinds: Value = named.iter().map(|(_, kind)| Value::Signed(*kind as i64)).collect();
    metadata.insert("tokenizer.ggml.token_type", kinds);
    let tokens: Value = named.into_iter().map(|(token, _)| token).collect();
    metadata.insert("tokenizer.ggml.tokens", tokens);
    let id = |token: &Option<(String, u32)>| token.as_ref().map(|(_, id)| *id);
    let ids = [
        ("bos", id(&special.bos)),
        ("eos", model.tokenizer.end_of_text()),
        ("padding", id(&special.pad)),
        ("unknown", id(&special.unk)),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{key}_token_id"), id as usize);
        }
    }
    metadata.insert("tokenizer.ggml.add_bos_token", special.add_bos);
    metadata.insert("tokenizer.ggml.add_eos_token", special.add_eos);
    if let Some(template) = &model.chat_template {
        add_chat_templates(metadata, template);
    }
    Ok(())
}

/// Checks that the embedding has a row for every token of the vocabulary. Added tokens without a row are left out with a note,
/// as llama.cpp's converter does.
fn check_rows(json: &Json, rows: usize, report: &mut ExportReport) -> Result<()> {
    let has_no_row = |id: &Json| id.as_u64().is_some_and(|id| id >= rows as u64);
    let added = json["added_tokens"].as_array().into_iter().flatten().filter(|token| has_no_row(&token["id"]));
    let added: Vec<&str> = added.filter_map(|token| token["content"].as_str()).collect();
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let count = vocabulary.filter(|(token, id)| has_no_row(id) && !added.contains(&token.as_str())).count();
    if count > 0 {
        return Err(ExportError::unsupported(format!(
            "{count} tokens of the tokenizer have no row in the embedding, which has {rows} rows: llama.cpp can't read such a file"
        )));
    }
    if !added.is_empty() {
        report.notes.push(format!("tokens that have no row in the embedding are left out: {}", added.join(", ")));
    }
    Ok(())
}

/// Adds each chat template under the key that llama.cpp reads it from.
fn add_chat_templates(metadata: &mut Metadata, template: &ChatTemplate) {
    let (default, named): (Vec<_>, Vec<_>) = template.sources().partition(|(name, _)| *name == "default");
    for (_, source) in default {
        metadata.insert("tokenizer.chat_template", source);
    }
    for (name, source) in &named {
        metadata.insert(format!("tokenizer.chat_template.{name}"), *source);
    }
    if !named.is_empty() {
        let names: Value = named.iter().map(|(name, _)| *name).collect();
        metadata.insert("tokenizer.chat_templates", names);
    }
}

/// The merges in order; the JSON has each as `"left right"` or as `["left", "right"]`.
fn merges(bpe: &Json) -> Vec<(String, String)> {
    let read = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Json::Array(parts) => Some((parts.first()?.as_str()?.to_owned(), parts.get(1)?.as_str()?.to_owned())),
        _ => None,
    };
    bpe["merges"].as_array().into_iter().flatten().filter_map(read).collect()
}

/// Scores that make llama.cpp apply the merges in their order: earlier merges have higher scores.
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

/// Whether the normalizer or the pre-tokenizer puts a space before the text.
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

/// llama.cpp's name of the byte-level pre-tokenizer of a tokenizer. The patterns must be equal: similar ones split differently.
fn pre_tokenizer(tokenizer: &Json, report: &mut ExportReport) -> Result<&'static str> {
    let json = &tokenizer["pre_tokenizer"];
    let ignores_merges = tokenizer["model"]["ignore_merges"].as_bool() == Some(true);
    let name = pre_tokenizer_name(json, ignores_merges)?;
    if ["gpt-4o", "tekken"].contains(&name) {
        report.notes.push(format!(
            "llama.cpp splits words with combining marks, and words of mixed case in other scripts than Latin, differently from the \
             model's tokenizer ({name})"
        ));
    }
    if ignores_merges != ["llama-bpe", "tekken"].contains(&name) {
        let (takes, others) = if ignores_merges { ("takes", "does not") } else { ("does not take", "does") };
        report.notes.push(format!(
            "the model's tokenizer {takes} words of the vocabulary as they are (`ignore_merges`), and llama.cpp {others} ({name}): the \
             ids of words that no merge leads to may differ"
        ));
    }
    Ok(name)
}

fn pre_tokenizer_name(json: &Json, ignores_merges: bool) -> Result<&'static str> {
    let steps = steps(json, "pretokenizers");
    let patterns: Vec<&str> = steps.iter().filter_map(|step| step["pattern"]["Regex"].as_str()).collect();
    if patterns == DEFAULT_PATTERNS {
        return Ok("default");
    }
    for step in &steps {
        match step["type"].as_str() {
            Some("Digits") if step["individual_digits"].as_bool() == Some(true) => return Ok("smollm"),
            Some("Split") => {
                // Some files have the characters, not their escapes.
                let pattern = step["pattern"]["Regex"].as_str().unwrap_or_default();
                let pattern = pattern.replace('\r', "\\r").replace('\n', "\\n");
                let Some((known, names)) = PATTERNS.iter().find(|(known, _)| *known == pattern) else {
                    let reason = format!("llama.cpp has no pre-tokenizer with the pattern {pattern}");
                    return Err(ExportError::unsupported(reason));
                };
                // `llama-bpe` ignores merges in llama.cpp; `dbrx` has the same pattern and does not.
                return Ok(if *known == LLAMA3_PATTERN && !ignores_merges { "dbrx" } else { names[0] });
            }
            _ => {}
        }
    }
    if steps.iter().any(|step| step["type"].as_str() == Some("ByteLevel")) {
        return Ok("gpt-2");
    }
    Err(ExportError::unsupported(format!("llama.cpp has no equivalent of the pre-tokenizer {json}")))
}

#[cfg(test)]
mod tests {
    use burnish_models::SpecialTokens;
    use burnish_models::gguf::{GPT4O_PATTERN, QWEN2_PATTERN, TEKKEN_PATTERN};
    use serde_json::json;

    use super::*;

    fn split(pattern: &str) -> Json {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern } }, { "type": "ByteLevel", "use_regex": false },
        ] })
    }

    #[test]
    fn a_pre_tokenizer_is_recognised_by_its_whole_pattern() {
        let named = |steps: Json, ignores: bool| {
            let mut report = ExportReport::default();
            let json = json!({ "pre_tokenizer": steps, "model": { "ignore_merges": ignores } });
            pre_tokenizer(&json, &mut report).map(|name| (name, report.notes.len()))
        };
        // What llama.cpp does differently is noted.
        for (pattern, ignores, expected) in [
            (LLAMA3_PATTERN, true, ("llama-bpe", 0)),
            (LLAMA3_PATTERN, false, ("dbrx", 0)),
            (QWEN2_PATTERN, false, ("qwen2", 0)),
            (QWEN2_PATTERN, true, ("qwen2", 1)),
            (GPT4O_PATTERN, false, ("gpt-4o", 1)),
            (TEKKEN_PATTERN, true, ("tekken", 1)),
            (TEKKEN_PATTERN, false, ("tekken", 2)),
        ] {
            assert_eq!(named(split(pattern), ignores).unwrap(), expected, "{pattern}");
        }
        assert_eq!(named(json!({ "type": "ByteLevel", "use_regex": true }), false).unwrap(), ("gpt-2", 0));
        let default = DEFAULT_PATTERNS.map(|pattern| json!({ "type": "Split", "pattern": { "Regex": pattern } }));
        assert_eq!(named(json!({ "type": "Sequence", "pretokenizers": default }), false).unwrap(), ("default", 0));
        let unescaped = QWEN2_PATTERN.replace("\\r", "\r").replace("\\n", "\n");
        assert_eq!(named(split(&unescaped), false).unwrap(), ("qwen2", 0));
        // Almost that of GPT-4o.
        let other = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}]*[\\p{Ll}]+|\\p{N}{1,3}|\\s+";
        assert!(named(split(other), false).unwrap_err().to_string().contains(other));
    }

    #[test]
    fn added_tokens_without_a_row_are_left_out_and_others_are_refused() {
        let json = json!({
            "added_tokens": [{ "id": 1, "content": "<eos>" }, { "id": 3, "content": "<image>" }],
            "model": { "vocab": { "a": 0, "<eos>": 1, "b": 2, "<image>": 3 } },
        });
        let mut report = ExportReport::default();
        check_rows(&json, 3, &mut report).unwrap();
        assert!(report.notes.len() == 1 && report.notes[0].ends_with(": <image>"), "{:?}", report.notes);
        assert!(check_rows(&json, 2, &mut report).unwrap_err().to_string().starts_with("1 tokens"));
    }

    #[test]
    fn end_tokens_are_kept_in_gguf_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/assets/quickstart/model");
        let model = Pretrained::open(source).unwrap();
        crate::export_gguf(&model, &*model.checkpoint, &path, &crate::GgufOptions::default()).unwrap();
        let read = Pretrained::open(&path).unwrap();
        // The model's end token is `<|im_end|>`; in llama.cpp, `<|endoftext|>` ends a text too.
        assert_eq!((model.config.eos_token_id.as_slice(), read.config.eos_token_id.as_slice()), (&[2][..], &[2, 0][..]));
        assert_eq!(read.tokenizer.encode("12 a", true).unwrap(), model.tokenizer.encode("12 a", true).unwrap());
        // A folder that is written from the GGUF has both.
        let folder = folder.path().join("folder");
        crate::export_hugging_face(&read, &*read.checkpoint, &folder, &crate::HuggingFaceOptions::default()).unwrap();
        let again = Pretrained::open(&folder).unwrap();
        assert_eq!(again.generation_config.unwrap()["eos_token_id"], json!([2, 0]));
        assert_eq!(again.config.eos_token_id, [2, 0]);
    }

    #[test]
    fn every_chat_template_has_a_key() {
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
    fn the_normalizer_or_the_pre_tokenizer_may_add_a_space_before_the_text() {
        let prefix = |json: &Json| has_prefix(json);
        assert!(prefix(&json!({ "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend" }] } })));
        assert!(prefix(&json!({ "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "first" } })));
        assert!(!prefix(&json!({ "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "never" } })));
        assert!(!prefix(&json!({ "normalizer": { "type": "Replace" }, "pre_tokenizer": null })));
    }
}
