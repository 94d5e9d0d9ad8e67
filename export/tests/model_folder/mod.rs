//! The cases of `make_parity.py` as folders with a tokenizer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The folders that `make_parity.py` wrote.
pub fn cases() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The folder of a case.
pub fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity").join(case)
}

/// Copies a fixture, adds a tokenizer, and changes the configuration.
pub fn model_folder(case: &str, target: &Path, change: impl FnOnce(&mut Value)) {
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(fixture(case)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("model") {
            fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut config: Value = serde_json::from_str(&fs::read_to_string(fixture(case).join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(target.join("config.json"), config.to_string()).unwrap();
    fs::write(target.join("tokenizer.json"), tokenizer(case == "gemma3").to_string()).unwrap();
}

/// A tokenizer of letters: byte-level BPE or SentencePiece.
fn tokenizer(sentence_piece: bool) -> Value {
    let letters = ('a'..='z').enumerate().map(|(index, letter)| (letter.to_string(), index + 3));
    let special = ["<pad>", "<bos>", "<eos>"].into_iter().enumerate().map(|(index, token)| (token.to_owned(), index));
    let mut vocab: BTreeMap<String, usize> = letters.chain(special).collect();
    let added: Vec<Value> = ["<pad>", "<bos>", "<eos>"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
        })
        .collect();
    if sentence_piece {
        vocab.insert("\u{2581}".to_owned(), 30);
        json!({ "version": "1.0", "added_tokens": added,
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
            "decoder": { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            "model": { "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "fuse_unk": true } })
    } else {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let merges = json!([["a", "b"]]);
        vocab.insert("ab".to_owned(), 30);
        json!({ "version": "1.0", "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocab, "merges": merges } })
    }
}
