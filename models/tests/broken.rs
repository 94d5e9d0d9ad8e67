//! Damaged files of every format: each is read or refused, without a panic, in time, and without more memory than its size warrants.
#![allow(clippy::unwrap_used)]

mod allocations;

use std::path::{Path, PathBuf};

use burnish_models::checkpoint::{Checkpoint, PytorchFiles, SafetensorsFolder, open_folder};
use burnish_models::gguf::GgufFile;
use burnish_models::{ModelConfig, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Bytes of memory that a reader may take for each byte of a file.
const EACH: usize = 400;
/// What it may take for any file, and what a tokenizer may take, which fills caches when it encodes a text.
const ANY: usize = 256 << 10;
const TOKENIZER: usize = 4 << 20;
/// Damaged files of each format, besides those that are cut off.
const CASES: u32 = 2000;

const TEXT: &str = "The quick brown fox, Ａ ﬁ e\u{301} ½ \u{200b} <s>";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)).unwrap()
}

/// Reads the file with these bytes, and all that it leads to.
fn replay(path: &Path, bytes: &[u8], least: usize, read: &dyn Fn(&Path)) {
    // A file that is emptied and written again is written to the disk at once.
    std::fs::remove_file(path).ok();
    std::fs::write(path, bytes).unwrap();
    let memory = allocations::watch();
    read(path);
    let most = least + EACH * bytes.len();
    assert!(memory.peak() <= most, "{}: {} bytes for a file of {}", path.display(), memory.peak(), bytes.len());
}

/// Reads a file cut off after each of its bytes, and with some of them changed.
fn damage(name: &str, whole: &[u8], least: usize, read: &dyn Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    for length in 0..=whole.len() {
        replay(&path, &whole[..length], least, read);
    }
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(0x80)];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), byte), 1..5);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&changes, |changes| {
        let mut bytes = whole.to_vec();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        replay(&path, &bytes, least, read);
        Ok(())
    });
    outcome.unwrap();
}

fn read_all(checkpoint: &dyn Checkpoint) {
    for name in checkpoint.names() {
        checkpoint.shape(&name);
        checkpoint.read_f32(&name).ok();
        checkpoint.read_bytes(&name).ok();
        checkpoint.read_packed(&name).ok();
    }
}

/// A small file of safetensors.
fn safetensors_file() -> Vec<u8> {
    let bytes = [0x3c; 48];
    let view = |dtype, shape: &[usize]| TensorView::new(dtype, shape.to_vec(), &bytes[..]).unwrap();
    let tensors = [("a.weight", view(Dtype::F32, &[3, 4])), ("b", view(Dtype::BF16, &[24])), ("c", view(Dtype::I8, &[48]))];
    safetensors::serialize(tensors, None).unwrap()
}

/// A GGUF file of a model with one block, its tokenizer and its chat template.
fn gguf_file() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let number = |key: &str, value: u32| [text(key), 4u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat();
    let string = |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let list = |key: &str, kind: u32, items: Vec<Vec<u8>>| {
        let head = [9u32.to_le_bytes(), kind.to_le_bytes()].concat();
        [text(key), head, (items.len() as u64).to_le_bytes().to_vec(), items.concat()].concat()
    };
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "<0x41>"];
    let scores = (0..tokens.len()).map(|at| (-(at as f32)).to_le_bytes().to_vec()).collect();
    let kinds = [2u32, 3, 3, 1, 1, 1, 1, 6].map(|kind| kind.to_le_bytes().to_vec()).to_vec();
    let keys = [
        string("general.architecture", "llama"),
        number("llama.embedding_length", 32),
        number("llama.feed_forward_length", 32),
        number("llama.block_count", 1),
        number("llama.attention.head_count", 2),
        number("llama.context_length", 64),
        string("tokenizer.ggml.model", "llama"),
        list("tokenizer.ggml.tokens", 8, tokens.iter().map(|token| text(token)).collect()),
        list("tokenizer.ggml.scores", 6, scores),
        list("tokenizer.ggml.token_type", 5, kinds),
        string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ];
    // Name, shape as the file has it, type and bytes.
    let tensors = [("token_embd.weight", [32u64, 8], 2u32, 144), ("blk.0.attn_q.weight", [32, 4], 8, 136)];
    let tensors =
        [&tensors[..], &[("blk.0.ffn_up.weight", [32, 2], 20, 36), ("blk.0.ffn_gate.weight", [32, 2], 39, 34)]].concat();
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    bytes.extend([tensors.len() as u64, keys.len() as u64].map(u64::to_le_bytes).concat());
    bytes.extend(keys.concat());
    let mut at = 0u64;
    for (name, shape, kind, length) in &tensors {
        bytes.extend([text(name), 2u32.to_le_bytes().to_vec(), shape.map(u64::to_le_bytes).concat()].concat());
        bytes.extend([&kind.to_le_bytes()[..], &at.to_le_bytes()].concat());
        at += u64::from(*length as u32).next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32) + at as usize, 0x11);
    bytes
}

fn read_gguf(path: &Path) {
    let Ok(file) = GgufFile::open(path) else { return };
    if let Ok(json) = file.config_json() {
        ModelConfig::from_json(&json).ok();
    }
    if let Ok(tokenizer) = file.tokenizer() {
        tokenizer.encode(TEXT, true).ok();
    }
    file.chat_template().ok();
    read_all(&file);
}

fn read_sentence_piece(path: &Path) {
    if let Ok(tokenizer) =
        Tokenizer::from_sentence_piece(&std::fs::read(path).unwrap(), &Value::Null, &Value::Null, &Value::Null)
    {
        tokenizer.encode(TEXT, true).ok();
    }
}

/// One test, since memory is counted for the whole process.
#[test]
fn damaged_files_are_read_or_refused() {
    let files = |path: &Path| vec![PathBuf::from(path)];
    damage("model.safetensors", &safetensors_file(), ANY, &|path| {
        if let Ok(file) = SafetensorsFolder::from_files(&files(path)) {
            read_all(&file);
        }
    });
    let pytorch = |path: &Path| {
        if let Ok(file) = PytorchFiles::open(&files(path)) {
            read_all(&file);
        }
    };
    damage("protocol4.pt", &fixture("pytorch/protocol4.pt"), ANY, &pytorch);
    damage("nested.pt", &fixture("pytorch/nested.pt"), ANY, &pytorch);
    let index = json!({ "weight_map": { "a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin" } }).to_string();
    damage("pytorch_model.bin.index.json", index.as_bytes(), ANY, &|path| {
        assert!(open_folder(path.parent().unwrap()).is_err());
    });
    let gguf = gguf_file();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.gguf");
    std::fs::write(&path, &gguf).unwrap();
    let whole = GgufFile::open(&path).unwrap();
    assert!(whole.config_json().is_ok() && whole.tokenizer().is_ok() && whole.chat_template().unwrap().is_some());
    damage("model.gguf", &gguf, TOKENIZER, &read_gguf);
    damage("tokenizer.model", &fixture("sentencepiece/unigram.model"), TOKENIZER, &read_sentence_piece);
}
