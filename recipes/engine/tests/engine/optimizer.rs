//! Moments in eight bits and the learning rates of LoRA+ in a trainer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::backend::Flex;
use burnish_engine::{
    AdamWConfig, Adapter, BackendDevice, Batch, Device, IGNORE, MomentType, StepItem, TrainedPart, Trainer, Weights,
};
use burnish_kernels::packed::codebook::{DYNAMIC_BLOCK, SIGNED};
use burnish_lora::{LoraConfig, read_config};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, FloatType, LoadOptions, ModelConfig, ModelError, Pretrained};
use safetensors::Dtype;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A model with a matrix below 4,096 elements (keys), some above, of which most don't fill their last block.
fn config() -> ModelConfig {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 131, "hidden_size": 65, "intermediate_size": 97, "num_hidden_layers": 2,
        "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 14, "tie_word_embeddings": false,
    });
    ModelConfig::from_json(&config).unwrap()
}

fn optimizer(moments: MomentType) -> AdamWConfig {
    AdamWConfig { moments, ..AdamWConfig::default() }
}

/// Full fine-tuning from random weights.
fn full(moments: MomentType) -> Box<dyn Trainer> {
    let part = TrainedPart::All(Weights::Random { seed: 3 });
    BackendDevice::<Flex>::default().train(&config(), part, optimizer(moments)).unwrap()
}

/// A step on tokens that depend on its number.
fn item(step: usize) -> StepItem {
    let ids: Vec<u32> = (0..24u32).map(|at| (at * at * 7 + at * 3 + step as u32 % 3) % 131).collect();
    let batch = Batch {
        labels: ids.iter().enumerate().map(|(at, id)| if at % 12 == 0 { IGNORE } else { i64::from(*id) }).collect(),
        position_ids: (0..24).map(|at| at % 12).collect(),
        segment_ids: vec![1; 24],
        rows: 2,
        length: 12,
        tokens: 24,
        target_tokens: 22,
        input_ids: ids,
        desirable: Vec::new(),
    };
    StepItem { step, batches: vec![batch], ..StepItem::default() }
}

fn losses(trainer: &mut dyn Trainer, steps: std::ops::RangeInclusive<usize>) -> Vec<f64> {
    steps.map(|step| trainer.step(&item(step), 3e-3).unwrap().loss).collect()
}

/// A checkpoint in memory, with the bytes that its file would have.
struct Kept(BTreeMap<String, (Vec<usize>, Dtype, Vec<u8>)>);

impl Kept {
    fn of(checkpoint: &dyn Checkpoint) -> Self {
        let read = |name: String| {
            let shape = checkpoint.shape(&name).unwrap();
            let (dtype, bytes) = if let Some(dtype) = checkpoint.integer_dtype(&name) {
                (dtype, checkpoint.read_bytes(&name).unwrap())
            } else {
                let values = checkpoint.read_f32(&name).unwrap();
                (Dtype::F32, values.into_iter().flat_map(f32::to_le_bytes).collect())
            };
            assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.bitsize() / 8, "{name}");
            (name, (shape, dtype, bytes))
        };
        Self(checkpoint.names().into_iter().map(read).collect())
    }

    fn missing(name: &str) -> ModelError {
        ModelError::Mismatch { problems: vec![name.to_owned()] }
    }
}

impl Checkpoint for Kept {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, ..)| shape.clone())
    }
    fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
        let (_, dtype, bytes) = self.0.get(name).ok_or_else(|| Self::missing(name))?;
        assert_eq!(*dtype, Dtype::F32, "{name}");
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        self.0.get(name).map(|(_, dtype, _)| *dtype).filter(|dtype| *dtype != Dtype::F32)
    }
    fn read_bytes(&self, name: &str) -> burnish_models::Result<Vec<u8>> {
        self.0.get(name).map(|(.., bytes)| bytes.clone()).ok_or_else(|| Self::missing(name))
    }
}

fn weights(trainer: &dyn Trainer) -> BTreeMap<String, Vec<u32>> {
    let weights = trainer.weights();
    let bits = |name: String| {
        let values = weights.read_f32(&name).unwrap().into_iter().map(f32::to_bits).collect();
        (name, values)
    };
    weights.names().into_iter().map(bits).collect()
}

/// A trainer with the weights and moments of another.
fn resumed(from: &dyn Trainer, moments: MomentType, updates: usize) -> Box<dyn Trainer> {
    let weights = from.weights();
    let part = TrainedPart::All(Weights::Of(&*weights));
    let mut trainer = BackendDevice::<Flex>::default().train(&config(), part, optimizer(moments)).unwrap();
    trainer.restore_moments(updates, &Kept::of(&*from.moments())).unwrap();
    trainer
}

#[test]
fn large_matrices_alone_have_moments_in_eight_bits() {
    let mut trainer = full(MomentType::EightBit);
    losses(&mut *trainer, 1..=2);
    let kept = Kept::of(&*trainer.moments());
    let of = |name: &str, kind: &str| {
        kept.0.get(&format!("model.{name}.{kind}")).map(|(shape, dtype, _)| (shape.clone(), *dtype))
    };
    // 70 · 65 elements.
    assert_eq!(of("layers.0.self_attn.q_proj.weight", "state1"), Some((vec![70, 65], Dtype::U8)));
    assert_eq!(of("layers.0.self_attn.q_proj.weight", "absmax2"), Some((vec![18], Dtype::F32)));
    assert_eq!(of("layers.0.self_attn.q_proj.weight", "exp_avg"), None);
    // 14 · 65 elements, and a vector.
    for small in ["layers.0.self_attn.k_proj.weight", "norm.weight"] {
        assert!(of(small, "exp_avg").is_some() && of(small, "state1").is_none(), "{small}");
    }
    assert_eq!(of("embed_tokens.weight", "state2"), Some((vec![131, 65], Dtype::U8)));
}

#[test]
fn moments_in_eight_bits_continue_to_the_bit() {
    let mut whole = full(MomentType::EightBit);
    let mut first = full(MomentType::EightBit);
    let expected = losses(&mut *whole, 1..=7);
    let mut found = losses(&mut *first, 1..=3);
    let mut second = resumed(&*first, MomentType::EightBit, 3);
    assert!(Kept::of(&*second.moments()).0 == Kept::of(&*first.moments()).0, "moments changed when they were restored");
    found.extend(losses(&mut *second, 4..=7));
    assert_eq!(found, expected);
    assert_eq!(weights(&*second), weights(&*whole));
    assert!(Kept::of(&*second.moments()).0 == Kept::of(&*whole.moments()).0);
}

#[test]
fn moments_of_the_other_type_are_converted() {
    let mut floats = full(MomentType::F32);
    losses(&mut *floats, 1..=3);
    let expected = Kept::of(&*floats.moments());
    let codes = resumed(&*floats, MomentType::EightBit, 3);
    let back = Kept::of(&*resumed(&*codes, MomentType::F32, 3).moments());
    assert_eq!(back.names(), expected.names());
    let mut compared = 0;
    for name in expected.names() {
        let (found, expected) = (back.read_f32(&name).unwrap(), expected.read_f32(&name).unwrap());
        for (found, expected) in found.chunks(DYNAMIC_BLOCK).zip(expected.chunks(DYNAMIC_BLOCK)) {
            // Neighbouring values of the maps are at most 0.02 apart, of the block's largest value.
            let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 0.011 * largest, "{name}: {found}, expected {expected}");
            }
            compared += 1;
        }
    }
    assert!(compared > 200 && SIGNED.values().windows(2).all(|pair| pair[1] - pair[0] <= 0.02));
    // And the run goes on.
    let mut codes = codes;
    let (converted, plain) = (losses(&mut *codes, 4..=6), losses(&mut *floats, 4..=6));
    for (converted, plain) in converted.iter().zip(plain) {
        assert!((converted - plain).abs() < 0.02 * plain, "{converted}, expected about {plain}");
    }
}

/// Damages a checkpoint.
type Change = fn(&mut BTreeMap<String, (Vec<usize>, Dtype, Vec<u8>)>);

#[test]
fn moments_that_are_missing_or_do_not_fit_are_named() {
    let mut trainer = full(MomentType::EightBit);
    losses(&mut *trainer, 1..=1);
    let name = "model.layers.1.mlp.up_proj.weight";
    let changes: [(&str, Change); 4] = [
        ("absmax2` is missing", |kept| drop(kept.remove("model.layers.1.mlp.up_proj.weight.absmax2"))),
        ("exp_avg` is missing", |kept| kept.retain(|name, _| !name.starts_with("model.layers.1.mlp.up_proj"))),
        ("absmax1` should have the shape [25], got [24]", |kept| {
            kept.get_mut("model.layers.1.mlp.up_proj.weight.absmax1").unwrap().0 = vec![24];
        }),
        ("state1` should be U8", |kept| {
            kept.get_mut("model.layers.1.mlp.up_proj.weight.state1").unwrap().1 = Dtype::I8;
        }),
    ];
    for (words, change) in changes {
        let mut kept = Kept::of(&*trainer.moments());
        change(&mut kept.0);
        let error = full(MomentType::EightBit).restore_moments(1, &kept).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
}

/// A model that learns three texts, from random weights: the loss falls as it does with moments in f32.
#[test]
fn training_with_moments_in_eight_bits_is_that_of_f32() {
    let means = [MomentType::F32, MomentType::EightBit].map(|moments| {
        let mut trainer = full(moments);
        let losses = losses(&mut *trainer, 1..=200);
        assert!(losses[0] > 4.5 && losses[199] < 1.0, "{} to {}", losses[0], losses[199]);
        losses
    });
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let [floats, codes] = &means;
    let difference = (mean(codes) - mean(floats)).abs() / mean(floats);
    assert!(difference < 0.01, "mean losses {} and {}", mean(floats), mean(codes));
    assert_ne!(floats, codes);
}

/// Two hundred steps of adapters on bookings, a row each:
/// `BURNISH_MODELS=FOLDER cargo test --release -p burnish-engine --test engine -- --ignored --nocapture`.
#[test]
#[ignore = "needs BURNISH_MODELS, the folder of fetch_models.sh"]
fn smollm2_with_moments_in_eight_bits_learns_as_with_f32() {
    let folder = std::env::var("BURNISH_MODELS").expect("BURNISH_MODELS names the folder of fetch_models.sh");
    let model = Pretrained::open(Path::new(&folder).join("smollm2.gguf")).unwrap();
    let rows = fixtures().join("../../recipes/assets/quickstart/data/train.jsonl");
    let batches: Vec<Batch> = std::fs::read_to_string(rows)
        .unwrap()
        .lines()
        .step_by(4)
        .take(200)
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |at: usize| row["messages"][at]["content"].as_str().unwrap().to_owned();
            let prompt = model.tokenizer.encode(&(text(0) + "\n"), false).unwrap();
            row_of(&prompt, &model.tokenizer.encode(&text(1), false).unwrap())
        })
        .collect();
    let lora = LoraConfig { rank: 16, alpha: 16.0, ..LoraConfig::default() };
    let losses = [MomentType::F32, MomentType::EightBit].map(|moments| {
        let adapter = Adapter::Fresh { config: &lora, seed: 1 };
        let part = TrainedPart::Adapters {
            base: &*model.checkpoint,
            options: LoadOptions::frozen(FloatType::F32),
            adapter,
            reference: None,
        };
        let mut trainer = BackendDevice::<Flex>::default().train(&model.config, part, optimizer(moments)).unwrap();
        let step = |(index, batch): (usize, &Batch)| {
            let item = StepItem { step: index + 1, batches: vec![batch.clone()], ..StepItem::default() };
            trainer.step(&item, 2e-4).unwrap().loss
        };
        batches.iter().enumerate().map(step).collect::<Vec<f64>>()
    });
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let [floats, codes] = losses.each_ref().map(|losses| [mean(losses), mean(&losses[100..])]);
    println!("mean loss of 200 steps and of the last 100: {floats:?} with f32 moments, {codes:?} in eight bits");
    assert!(losses[0].len() == 200 && floats[1] < 0.8 * losses[0][0] && losses[0] != losses[1]);
    for (codes, floats) in codes.iter().zip(floats) {
        assert!((codes / floats - 1.0).abs() < 0.01, "mean loss {codes}, expected {floats}");
    }
}

/// A row of which the answer is learned.
fn row_of(prompt: &[u32], answer: &[u32]) -> Batch {
    let (masked, learned) = (prompt.iter().map(|_| IGNORE), answer.iter().map(|id| i64::from(*id)));
    let tokens = prompt.len() + answer.len();
    Batch {
        input_ids: [prompt, answer].concat(),
        labels: masked.chain(learned).collect(),
        position_ids: (0..tokens as u32).collect(),
        segment_ids: vec![1; tokens],
        rows: 1,
        length: tokens,
        tokens,
        target_tokens: answer.len(),
        desirable: Vec::new(),
    }
}

/// The golden file is of `make_loraplus.py`.
#[test]
fn lora_plus_is_that_of_peft() {
    let case = fixtures().join("parity/llama");
    let config = serde_json::from_str(&std::fs::read_to_string(case.join("config.json")).unwrap()).unwrap();
    let (config, base) = (ModelConfig::from_json(&config).unwrap(), SafetensorsFolder::open(&case).unwrap());
    let golden = SafetensorsFolder::from_files(&[fixtures().join("loraplus.safetensors")]).unwrap();
    let path = case.join("adapter");
    for moments in [MomentType::F32, MomentType::EightBit] {
        let adapter = Adapter::Folder { path: &path, dropout: 0.0 };
        let part =
            TrainedPart::Adapters { base: &base, options: LoadOptions::frozen(FloatType::F32), adapter, reference: None };
        let optimizer = AdamWConfig { max_grad_norm: 0.0, lora_plus_ratio: 16.0, ..optimizer(moments) };
        let mut trainer = BackendDevice::<Flex>::default().train(&config, part, optimizer).unwrap();
        let item = StepItem { batches: vec![golden_batch(&case)], ..StepItem::default() };
        let expected = golden.read_f32("losses").unwrap();
        for expected in &expected {
            let found = trainer.step(&item, 1e-3).unwrap().loss;
            assert!((found - f64::from(*expected)).abs() < 1e-4, "loss {found}, expected {expected}");
        }
        let folder = std::env::temp_dir().join(format!("burnish-lora-plus-{}-{moments:?}", std::process::id()));
        trainer.save_adapter(&read_config(&path).unwrap(), "base", &folder).unwrap();
        let saved = SafetensorsFolder::from_files(&[folder.join("adapter_model.safetensors")]).unwrap();
        assert!(saved.names().len() == 28 && golden.names().len() == 29);
        for name in saved.names() {
            let (found, expected) = (saved.read_f32(&name).unwrap(), golden.read_f32(&name).unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{name}: {found}, expected {expected}");
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// The batch of `make_parity.py`: two rows, padded on the right, with masked prompts.
fn golden_batch(case: &Path) -> Batch {
    let golden = SafetensorsFolder::from_files(&[case.join("golden.safetensors")]).unwrap();
    let ints = |name: &str| -> Vec<i64> {
        let bytes = golden.read_bytes(name).unwrap();
        bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
    };
    let (ids, mask, labels) = (ints("input_ids"), ints("attention_mask"), ints("labels"));
    let length = ids.len() / 2;
    Batch {
        input_ids: ids.iter().map(|id| *id as u32).collect(),
        position_ids: (0..2 * length).map(|at| (at % length) as u32).collect(),
        segment_ids: mask.iter().map(|mask| *mask as u32).collect(),
        tokens: mask.iter().sum::<i64>() as usize,
        target_tokens: labels.iter().filter(|label| **label != IGNORE).count(),
        labels,
        rows: 2,
        length,
        desirable: Vec::new(),
    }
}
