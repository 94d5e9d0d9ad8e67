//! Turns the `tokenizer.model` of SentencePiece into a `tokenizer.json`.
//!
//! Source: the converters in `convert_slow_tokenizer.py`, `tokenization_llama.py` and `tokenization_gemma.py` of transformers 5.23.

mod charsmap;
pub(crate) mod merges;
mod proto;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use self::proto::{Algorithm, Kind, Model, Read};
use super::token_text;

/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// The special tokens that `tokenizer_config.json` can name.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// How spaces are treated: by the converter for a class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spaces {
    /// `LlamaTokenizer`, also of Mistral and Phi-3: none is removed; one is put before a text, or, in the old way, before each part
    /// of a text between added tokens.
    Llama { prefix: bool, each_part: bool },
    /// `GemmaTokenizer`: none is added or removed.
    Gemma,
    /// Other tokenizers of the algorithm Unigram: runs of spaces become one, and a text is divided at spaces.
    Unigram { prefix: bool },
}

impl Spaces {
    /// What `tokenizer_config.json` says, or else the file.
    fn of(model: &Model, config: &Value) -> Self {
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let is_llama = class.trim_end_matches("Fast") == "LlamaTokenizer";
        // transformers ignores what the file says where the class is known.
        let prefix = flag("add_prefix_space").unwrap_or(is_llama || model.add_dummy_prefix);
        match class.trim_end_matches("Fast") {
            "GemmaTokenizer" => Self::Gemma,
            _ if !is_llama && model.algorithm == Algorithm::Unigram => Self::Unigram { prefix },
            _ => Self::Llama { prefix, each_part: flag("legacy").unwrap_or(false) },
        }
    }
}

/// A `tokenizer.json` for the file, and `tokenizer_config.json` with the special tokens that only the file names.
///
/// # Errors
/// If the file is not a SentencePiece model, is damaged, or is of another algorithm than BPE and Unigram.
pub(super) fn convert(bytes: &[u8], config: &Value, map: &Value) -> Read<(Value, Value)> {
    if is_tiktoken(bytes) {
        return Err("is in the format of tiktoken (as Meta's own files of Llama 3), not of SentencePiece; \
             AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers converts it"
            .to_owned());
    }
    let model = Model::read(bytes)?;
    let config = with_special_tokens(&model, config, map);
    let spaces = Spaces::of(&model, &config);
    let mut json = json!({ "version": "1.0", "model": model_json(&model)? });
    json["added_tokens"] = added_tokens(&model, &config, map);
    for (key, value) in pipeline(&model, spaces)? {
        json[key] = value;
    }
    Ok((json, config))
}

/// Lines of a token in base64 and its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let mut parts = line.split(|byte| *byte == b' ');
    let (token, rank) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    !token.is_empty() && token.iter().all(is_base64) && !rank.is_empty() && rank.iter().all(u8::is_ascii_digit)
}

/// The configuration with the special tokens of the file where it and `special_tokens_map.json` name none.
fn with_special_tokens(model: &Model, config: &Value, map: &Value) -> Value {
    let mut config = if config.is_object() { config.clone() } else { json!({}) };
    for (key, id) in [("unk_token", model.unk_id), ("bos_token", model.bos_id), ("eos_token", model.eos_id)] {
        let is_named = [&config, map].into_iter().any(|file| file.get(key).is_some());
        if let (false, Some(piece)) = (is_named, model.piece(id)) {
            config[key] = json!(piece);
        }
    }
    if let (true, Some(piece)) = (model.pad_id >= 0 && config.get("pad_token").is_none(), model.piece(model.pad_id)) {
        config["pad_token"] = map.get("pad_token").cloned().unwrap_or_else(|| json!(piece));
    }
    config
}

fn model_json(model: &Model) -> Read<Value> {
    let unknown = model.piece(model.unk_id);
    match model.algorithm {
        Algorithm::Bpe => {
            let mut ids = HashMap::new();
            for (id, piece) in model.pieces.iter().enumerate() {
                ids.insert(piece.text.as_str(), id);
            }
            let vocabulary: serde_json::Map<String, Value> =
                model.pieces.iter().map(|piece| (piece.text.clone(), json!(ids[piece.text.as_str()]))).collect();
            Ok(json!({
                "type": "BPE", "vocab": vocabulary, "merges": merges::merges(&ids)?, "unk_token": unknown, "fuse_unk": true,
                "byte_fallback": true,
            }))
        }
        Algorithm::Unigram => {
            let is_finite = model.pieces.iter().all(|piece| piece.score.is_finite());
            if !is_finite || unknown.is_none() {
                return Err("expected finite scores and a piece for unknown text".to_owned());
            }
            let vocabulary: Vec<Value> =
                model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
            let byte_fallback = model.byte_fallback;
            Ok(json!({ "type": "Unigram", "unk_id": model.unk_id, "vocab": vocabulary, "byte_fallback": byte_fallback }))
        }
        Algorithm::Other(kind) => {
            Err(format!("its pieces are of the model type {kind}: only Unigram (1) and BPE (2) are read"))
        }
    }
}

/// Normalizer, pre-tokenizer and decoder.
fn pipeline(model: &Model, spaces: Spaces) -> Read<Vec<(&'static str, Value)>> {
    let metaspace = |scheme: &str, split: bool| json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split });
    let decoder = |strips: bool| {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if strips {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    };
    Ok(match spaces {
        Spaces::Llama { prefix, each_part } => {
            let scheme = match (prefix, each_part) {
                (false, _) => "never",
                (true, false) => "first",
                (true, true) => "always",
            };
            vec![("pre_tokenizer", metaspace(scheme, false)), ("decoder", decoder(prefix))]
        }
        Spaces::Gemma => vec![
            ("normalizer", json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false }),
            ),
            ("decoder", decoder(false)),
        ],
        Spaces::Unigram { prefix } => {
            let mut steps = Vec::new();
            if !model.charsmap.is_empty() {
                let map = charsmap::normalizer(&model.charsmap)?;
                steps.push(serde_json::to_value(map).map_err(|error| error.to_string())?);
            }
            steps.push(json!({ "type": "Strip", "strip_left": false, "strip_right": true }));
            steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": SPACE }));
            let scheme = if prefix { "always" } else { "never" };
            vec![
                ("normalizer", json!({ "type": "Sequence", "normalizers": steps })),
                ("pre_tokenizer", metaspace(scheme, true)),
                ("decoder", metaspace(scheme, true)),
            ]
        }
    })
}

/// The tokens that are found in a text before it is divided: those that the file marks, and those of the configuration that are in
/// the vocabulary, with their settings.
fn added_tokens(model: &Model, config: &Value, map: &Value) -> Value {
    let ids: HashMap<&str, usize> = model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let entry = |id: usize, text: &str, flags: &Value, special: bool| {
        let is = |key: &str| flags.get(key).and_then(Value::as_bool).unwrap_or(false);
        json!({
            "id": id, "content": text, "single_word": is("single_word"), "lstrip": is("lstrip"), "rstrip": is("rstrip"),
            "normalized": is("normalized"), "special": special,
        })
    };
    let mut added = BTreeMap::new();
    for (id, piece) in model.pieces.iter().enumerate().filter(|(_, piece)| piece.kind != Kind::Other) {
        added.insert(id, entry(id, &piece.text, &Value::Null, piece.kind == Kind::Control));
    }
    let named = NAMED.iter().filter_map(|key| [config, map].into_iter().find_map(|file| file.get(*key)));
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    let listed = lists.iter().flat_map(|key| [config, map].map(|file| file.get(*key))).flatten();
    for token in named.chain(listed.filter_map(Value::as_array).flatten()) {
        if let Some((text, id)) = token_text(token).and_then(|text| Some((text, *ids.get(text)?))) {
            added.insert(id, entry(id, text, token, true));
        }
    }
    for token in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten().map(|(_, token)| token)
    {
        if let Some((text, id)) = token_text(token).and_then(|text| Some((text, *ids.get(text)?))) {
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            added.insert(id, entry(id, text, token, special));
        }
    }
    added.into_values().collect()
}
