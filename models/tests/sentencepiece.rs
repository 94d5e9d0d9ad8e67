//! SentencePiece models against the ids that transformers gives (`make_sentencepiece.py`).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burnish_models::Tokenizer;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sentencepiece")
}

fn model(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(format!("{name}.model"))).unwrap()
}

fn build(model: &[u8], config: &Value) -> burnish_models::Result<Tokenizer> {
    Tokenizer::from_sentence_piece(model, config, &Value::Null, &Value::Null)
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let golden: Value = serde_json::from_slice(&std::fs::read(fixtures().join("ids.json")).unwrap()).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() == 9 && texts.len() > 30);
    for case in cases {
        let what = format!("{} {} {}", case["model"], case["config"], case["added"]);
        let bytes = model(case["model"].as_str().unwrap());
        let tokenizer = Tokenizer::from_sentence_piece(&bytes, &case["config"], &Value::Null, &case["added"]).unwrap();
        // A folder that is written has a `tokenizer.json` that says the same.
        let written = tokenizer.to_json().unwrap();
        let again = Tokenizer::from_json(written.as_bytes(), &case["config"], &Value::Null, &case["added"]).unwrap();
        for (at, text) in texts.iter().enumerate() {
            let expected: Vec<u32> = serde_json::from_value(case["ids"][at].clone()).unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{what}: {text:?}");
            assert_eq!(again.encode(text, true).unwrap(), expected, "{what}: {text:?}, written");
            let bare = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&bare, false).unwrap(), case["decoded"][at], "{what}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_come_from_the_file_where_no_configuration_names_them() {
    let special = build(&model("llama"), &Value::Null).unwrap().special().clone();
    assert_eq!((special.bos, special.eos), (Some(("<s>".into(), 1)), Some(("</s>".into(), 2))));
    assert_eq!((special.unk, special.pad, special.add_bos), (Some(("<unk>".into(), 0)), None, false));
    let special = build(&model("gemma"), &json!({ "bos_token": "<start_of_turn>" })).unwrap().special().clone();
    assert_eq!(special.bos.unwrap().0, "<start_of_turn>");
    assert_eq!((special.eos, special.pad), (Some(("<eos>".into(), 1)), Some(("<pad>".into(), 0))));
}

#[test]
fn a_folder_without_tokenizer_json_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("tokenizer.model", &model("llama"));
    write("tokenizer_config.json", br#"{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true}"#);
    write("added_tokens.json", br#"{"<|end|>": 420}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("<|end|>", true).unwrap(), [1, 420]);
    write("added_tokens.json", br#"{"<|end|>": 999}"#);
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model") && error.contains("expected id 999"), "{error}");
}

/// A field of a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

#[test]
fn other_files_are_refused() {
    let error = |bytes: &[u8]| build(bytes, &Value::Null).unwrap_err().to_string();
    assert!(error(b"IQ== 0\nIg== 1\n").contains("tiktoken"));
    assert!(error(b"").contains("no pieces"));
    assert!(error(b"{\"version\": 1}").contains("not a SentencePiece model"));
    assert!(error(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]).contains("cut off"));
    assert!(error(&[0xff; 20]).contains("more than ten bytes"));
    let long = [&[0x0a, 0x84, 0x08, 0x0a, 0x81, 0x08][..], &[b'a'; 1025]].concat();
    assert!(error(&long).contains("a piece has 1025 bytes"));
    let pieces = [field(1, &field(1, b"<unk>")), field(1, &field(1, b"a"))].concat();
    let with = |trainer: &[u8]| error(&[&pieces[..], &field(2, trainer)].concat());
    assert!(with(&[3 << 3, 3]).contains("model type 3"));
    assert!(with(&[0xc0, 0x02, 9]).contains("piece for unknown text"));
    let not_finite = [field(1, b"a"), vec![2 << 3 | 5, 0, 0, 0xc0, 0x7f]].concat();
    assert!(error(&[&pieces[..], &field(1, &not_finite)].concat()).contains("finite scores"));
    assert!(error(&[&pieces[..], &field(3, &field(2, &[9; 9]))].concat()).contains("normalization"));
}
