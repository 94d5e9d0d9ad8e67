//! Writes the data sets and the tokenizer of the quickstart.
//!
//! `cargo run --release -p burnish-examples --bin quickstart_data -- runs/quickstart-base` writes the data set of the base model to the
//! given folder, and the files that are part of the repository to `recipes/assets/quickstart`. It always writes the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use burnish_examples::bookings::Booking;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer, TokenizerImpl};

const SEED: u64 = 7;
const VOCABULARY: usize = 512;
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn main() -> Result<()> {
    let base = std::env::args().nth(1).map(PathBuf::from).context("name a folder for the base model's data")?;
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let (mut train, mut valid, mut test) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    // No booking is in more than one split.
    fill(&mut test, 100, &mut random, &[]);
    fill(&mut valid, 60, &mut random, &[&test]);
    fill(&mut train, 800, &mut random, &[&test, &valid]);
    for (name, split) in [("train", &train), ("valid", &valid), ("test", &test)] {
        let rows: Vec<Value> = split.iter().map(|booking| booking.structured_turn(&mut random)).collect();
        write_rows(&assets.join("data").join(format!("{name}.jsonl")), &rows)?;
    }
    let plain = |count: usize, random: &mut ChaCha8Rng| -> Vec<Value> {
        let known = [&valid, &test];
        let mut rows = Vec::new();
        while rows.len() < count {
            let booking = Booking::draw(random);
            if !known.iter().any(|split| split.contains(&booking)) {
                rows.push(booking.plain_turn(random));
            }
        }
        rows
    };
    let rows = plain(40_000, &mut random);
    write_rows(&base.join("train.jsonl"), &rows)?;
    write_rows(&base.join("valid.jsonl"), &plain(500, &mut random))?;
    write_model(&assets.join("model"), &rows)
}

fn fill(split: &mut BTreeSet<Booking>, count: usize, random: &mut ChaCha8Rng, others: &[&BTreeSet<Booking>]) {
    while split.len() < count {
        let booking = Booking::draw(random);
        if !others.iter().any(|other| other.contains(&booking)) {
            split.insert(booking);
        }
    }
}

fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let text = lines.join("\n") + "\n";
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Writes tokenizer and configuration; the weights come from `burnish train`.
fn write_model(folder: &Path, rows: &[Value]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let texts: Vec<String> = rows
        .iter()
        .filter_map(|row| row["messages"].as_array())
        .flatten()
        .filter_map(|message| message["content"].as_str().map(str::to_owned))
        .collect();
    let mut tokenizer = TokenizerImpl::<
        BPE,
        tokenizers::NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(Sequence::new(vec![
        PreTokenizerWrapper::from(Digits::new(true)),
        PreTokenizerWrapper::from(bytes),
    ]))));
    tokenizer.with_decoder(Some(tokenizers::DecoderWrapper::from(bytes)));
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.iter()).map_err(|error| anyhow!(error))?;
    let tokenizer: Tokenizer = tokenizer.into();
    tokenizer.save(folder.join("tokenizer.json"), true).map_err(|error| anyhow!(error))?;
    let id = |token: &str| tokenizer.token_to_id(token);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "vocab_size": VOCABULARY, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "initializer_range": 0.02,
        "bos_token_id": id("<|im_start|>"), "eos_token_id": id("<|im_end|>"), "pad_token_id": id("<|endoftext|>"),
    });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "add_bos_token": false,
        "clean_up_tokenization_spaces": false, "model_max_length": 256, "chat_template": TEMPLATE,
    });
    for (name, value) in [("config.json", config), ("tokenizer_config.json", tokenizer_config)] {
        let path = folder.join(name);
        fs::write(&path, serde_json::to_string_pretty(&value)? + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}
