//! Compares every family with transformers and PEFT: all on `cpu`, one of each kind of block in the emulator, one on each other
//! backend, and in `.ci/nightly` all of them on every backend that is built in.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::DType;
use burnish_engine::{AdamWConfig, Adapter, Batch, Checkpointing, Device, StepItem, TrainedPart, Trainer, Weights};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, FloatType, LoadOptions};
use burnish_tests::Golden;

/// The folders that `make_parity.py` wrote.
fn cases() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn close(name: &str, values: &[f32], expected: &[f32]) {
    Tolerance::of(DType::F32).check(name, values, expected).unwrap();
}

/// Logits without those of padding, which are undefined.
fn unpadded(values: &[f32], batch: &Batch) -> Vec<f32> {
    let vocabulary = values.len() / batch.segment_ids.len();
    let rows = values.chunks_exact(vocabulary).zip(&batch.segment_ids).filter(|(_, segment)| **segment > 0);
    rows.flat_map(|(row, _)| row.iter().copied()).collect()
}

fn item(golden: &Golden) -> StepItem {
    StepItem { batches: vec![golden.batch().unwrap()], ..StepItem::default() }
}

fn optimizer(clip: f64) -> AdamWConfig {
    AdamWConfig { max_grad_norm: clip, ..AdamWConfig::default() }
}

/// The adapters of experts that `make_expert_adapters.py` wrote.
const EXPERTS: [&str; 4] = ["qwen3moe-experts", "qwen3moe-all", "gpt-oss-experts", "gpt-oss-mxfp4-experts"];

/// A case of either script.
fn open(case: &str) -> Golden {
    if EXPERTS.contains(&case) { Golden::of_experts(case).unwrap() } else { Golden::open(case).unwrap() }
}

/// The name of an adapter's tensor in the model, from that in PEFT's files, which wraps the parameters of experts.
fn own_name(name: &str) -> String {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let name = name.replace(".experts.base_layer.lora_", ".experts.gate_up_proj.lora_");
    name.replace(".experts.lora_", ".experts.down_proj.lora_")
}

/// A trainer with the golden adapter on its model.
fn adapted(device: &dyn Device, golden: &Golden, clip: f64) -> Box<dyn Trainer> {
    let path = golden.folder.join("adapter");
    let adapter = Adapter::Folder { path: &path, dropout: 0.0 };
    let part = TrainedPart::Adapters { base: &golden.weights, options: LoadOptions::default(), adapter, reference: None };
    device.train(&golden.config, part, optimizer(clip)).unwrap()
}

fn logits(device: &dyn Device, case: &str) {
    let golden = open(case);
    let (batch, adapter) = (golden.batch().unwrap(), golden.folder.join("adapter"));
    let base = Some(("logits", None)).filter(|_| !EXPERTS.contains(&case));
    for (key, adapter) in base.into_iter().chain([("adapter_logits", Some(adapter.as_path()))]) {
        let mut runner = device.run(&golden.config, &golden.weights, LoadOptions::default(), adapter).unwrap();
        let expected = unpadded(&golden.floats(key).unwrap(), &batch);
        close(&format!("{case} {key}"), &unpadded(&runner.logits(&batch).unwrap(), &batch), &expected);
    }
}

/// Checks loss and gradients of one step.
fn step(trainer: &mut dyn Trainer, golden: &Golden, case: &str, loss: &str, prefix: &str) {
    trainer.forward_backward(&item(golden)).unwrap();
    let gradients = trainer.gradients();
    trainer.update(0.0);
    let found = trainer.finish().unwrap().loss as f32;
    close(&format!("{case} {loss}"), &[found], &golden.floats(loss).unwrap()[..1]);
    let names = golden.names(prefix);
    assert!(!names.is_empty() && names.len() == gradients.len(), "{case}: {names:?}");
    for name in names {
        let own = own_name(&name);
        let gradient = gradients.iter().find(|gradient| gradient.name == own).unwrap();
        close(&format!("{case} {name}"), &gradient.values, &golden.floats(&format!("{prefix}{name}")).unwrap());
    }
}

fn gradients(device: &dyn Device, case: &str) {
    let golden = open(case);
    step(&mut *adapted(device, &golden, 0.0), &golden, case, "loss", "grad.");
}

/// Checks that checkpointed blocks give the same gradients, to the bit, with dropout, accumulation and a loss scale.
fn checkpointed(device: &dyn Device, case: &str) {
    let golden = open(case);
    // PEFT has no dropout for adapters of experts.
    let dropout = if EXPERTS.contains(&case) { 0.0 } else { 0.1 };
    let path = golden.folder.join("adapter");
    for dtype in [FloatType::F32, FloatType::F16].into_iter().filter(|dtype| device.computes_in(*dtype)) {
        let adapter = Adapter::Folder { path: &path, dropout };
        let part =
            TrainedPart::Adapters { base: &golden.weights, options: LoadOptions::frozen(dtype), adapter, reference: None };
        let mut trainer = device.train(&golden.config, part, optimizer(0.0)).unwrap();
        let item = StepItem { batches: vec![golden.batch().unwrap(); 2], seed: 4, loss_scale: 256.0, ..StepItem::default() };
        let mut bits = |checkpointing| {
            trainer.forward_backward(&StepItem { checkpointing, ..item.clone() }).unwrap();
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            trainer.gradients().into_iter().map(|gradient| (gradient.name, bits(gradient.values))).collect::<Vec<_>>()
        };
        let (all, kept) = (bits(None), bits(Some(Checkpointing::default())));
        for ((name, all), (_, kept)) in all.iter().zip(&kept) {
            assert!(!all.is_empty() && all == kept, "{case} {dtype}: {name}");
        }
    }
}

fn ten_losses(trainer: &mut dyn Trainer, golden: &Golden) -> Vec<f32> {
    let mut step = || {
        trainer.forward_backward(&item(golden)).unwrap();
        trainer.update(1e-3);
        trainer.finish().unwrap().loss as f32
    };
    (0..10).map(|_| step()).collect()
}

/// Checks the losses of ten steps, and the resulting adapter.
fn ten_steps(device: &dyn Device, case: &str, label: &str, clip: f64) {
    let golden = open(case);
    let mut trainer = adapted(device, &golden, clip);
    let losses = ten_losses(&mut *trainer, &golden);
    close(&format!("{case} {label} losses"), &losses, &golden.floats(&format!("{label}.losses")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let config = burnish_lora::read_config(&golden.folder.join("adapter")).unwrap();
    trainer.save_adapter(&config, "base", folder.path()).unwrap();
    let saved = SafetensorsFolder::from_files(&[folder.path().join("adapter_model.safetensors")]).unwrap();
    for name in saved.names() {
        let expected = golden.floats(&format!("{label}.{name}")).unwrap();
        close(&format!("{case} {label} {name}"), &saved.read_f32(&name).unwrap(), &expected);
    }
}

/// Checks full fine-tuning: the gradients of all weights, and the losses of ten steps.
fn full(device: &dyn Device, case: &str) {
    let golden = Golden::open(case).unwrap();
    let trainer = || device.train(&golden.config, TrainedPart::All(Weights::Of(&golden.weights)), optimizer(0.0)).unwrap();
    step(&mut *trainer(), &golden, case, "full_losses", "full_grad.");
    close(&format!("{case} full losses"), &ten_losses(&mut *trainer(), &golden), &golden.floats("full_losses").unwrap());
}

/// Checks both rows of the batch packed into one row, without attention between them.
fn packed(device: &dyn Device, case: &str) {
    let golden = Golden::open(case).unwrap();
    let batch = golden.batch().unwrap();
    let kept: Vec<usize> = (0..batch.input_ids.len()).filter(|index| batch.segment_ids[*index] > 0).collect();
    let row = Batch {
        input_ids: kept.iter().map(|index| batch.input_ids[*index]).collect(),
        labels: kept.iter().map(|index| batch.labels[*index]).collect(),
        position_ids: kept.iter().map(|index| batch.position_ids[*index]).collect(),
        segment_ids: kept.iter().map(|index| 1 + (*index / batch.length) as u32).collect(),
        rows: 1,
        length: kept.len(),
        tokens: kept.len(),
        target_tokens: batch.target_tokens,
        desirable: Vec::new(),
    };
    let mut runner = device.run(&golden.config, &golden.weights, LoadOptions::default(), None).unwrap();
    let loss = runner.loss(&row).unwrap() as f32;
    close(&format!("{case} packed"), &[loss], &[golden.floats("row_losses").unwrap().iter().sum()]);
}

/// Checks one row, token by token, through the key-value cache.
fn cached(device: &dyn Device, case: &str) {
    let golden = Golden::open(case).unwrap();
    let batch = golden.batch().unwrap();
    let mut runner = device.run(&golden.config, &golden.weights, LoadOptions::default(), None).unwrap();
    let (head, tail) = batch.input_ids[..batch.length].split_at(5);
    let mut last = runner.next_logits(head);
    for token in tail {
        last = runner.next_logits(&[*token]);
    }
    let expected = golden.floats("logits").unwrap();
    let vocabulary = golden.config.vocab_size;
    close(&format!("{case} cached"), &last, &expected[(batch.length - 1) * vocabulary..batch.length * vocabulary]);
}

/// The family that every backend is tested with: without a GPU, some take minutes for all.
const ONE: &str = "llama3";

fn everything(backend: &str, cases: &[impl AsRef<str>]) {
    let device = burnish_backends::open(backend).unwrap();
    for case in cases {
        let case = case.as_ref();
        logits(&*device, case);
        gradients(&*device, case);
        ten_steps(&*device, case, "plain", 0.0);
        ten_steps(&*device, case, "clipped", 0.1);
        checkpointed(&*device, case);
        packed(&*device, case);
        cached(&*device, case);
        if !Golden::open(case).unwrap().names("full_grad.").is_empty() {
            full(&*device, case);
        }
    }
}

/// Checks adapters of experts.
fn experts(backend: &str, cases: &[&str]) {
    let device = burnish_backends::open(backend).unwrap();
    for case in cases {
        logits(&*device, case);
        gradients(&*device, case);
        ten_steps(&*device, case, "plain", 0.0);
        checkpointed(&*device, case);
    }
}

#[test]
fn cpu_equals_transformers_and_peft() {
    everything("cpu", &cases());
}

#[test]
fn adapters_of_experts_equal_peft_on_the_cpu() {
    experts("cpu", &EXPERTS);
}

#[cfg(feature = "candle")]
#[test]
#[ignore = "a second backend without kernels of ours"]
fn adapters_of_experts_equal_peft_on_candle() {
    experts("candle", &EXPERTS);
}

#[cfg(feature = "metal")]
#[test]
#[ignore = "takes minutes without a GPU"]
fn adapters_of_experts_equal_peft_on_our_runtime() {
    experts(OURS, &EXPERTS);
}

#[cfg(feature = "candle")]
#[test]
fn candle_equals_transformers_and_peft() {
    everything("candle", &[ONE]);
}

#[cfg(feature = "candle")]
#[test]
#[ignore = "takes a minute"]
fn candle_equals_transformers_and_peft_in_every_family() {
    everything("candle", &cases());
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_equals_transformers_and_peft() {
    everything("wgpu", &[ONE]);
}

#[cfg(feature = "wgpu")]
#[test]
#[ignore = "takes minutes"]
fn wgpu_equals_transformers_and_peft_in_every_family() {
    everything("wgpu", &cases());
}

/// burn's own kernels and autodiff, with which `bench` compares.
#[cfg(feature = "wgpu-stock")]
#[test]
fn burn_alone_equals_transformers_and_peft() {
    let device = burnish_backends::open(burnish_backends::WGPU_STOCK).unwrap();
    gradients(&*device, ONE);
    ten_steps(&*device, ONE, "clipped", 0.1);
}

#[cfg(feature = "wgpu-stock")]
#[test]
#[ignore = "takes a minute"]
fn burn_alone_equals_transformers_and_peft_in_every_family() {
    let device = burnish_backends::open(burnish_backends::WGPU_STOCK).unwrap();
    for case in &cases() {
        gradients(&*device, case);
    }
}

#[cfg(feature = "metal")]
const OURS: &str = if cfg!(target_os = "macos") { "metal" } else { "vulkan" };

#[cfg(feature = "metal")]
#[test]
fn our_runtime_equals_transformers_and_peft() {
    everything(OURS, &[ONE]);
}

#[cfg(feature = "metal")]
#[test]
#[ignore = "takes minutes"]
fn our_runtime_equals_transformers_and_peft_in_every_family() {
    everything(OURS, &cases());
}

/// The kernels that a Mac would run, repaired and checked at every memory access. One test per family, so that they run in parallel.
#[cfg(feature = "emulator")]
mod emulated_metal {
    use super::*;

    fn logits_and_steps(case: &str) {
        let device = burnish_backends::open("emulator").unwrap();
        logits(&*device, case);
        gradients(&*device, case);
        checkpointed(&*device, case);
        ten_steps(&*device, case, "clipped", 0.1);
    }

    #[test]
    fn equals_transformers_and_peft() {
        let device = burnish_backends::open("emulator").unwrap();
        logits(&*device, "llama3");
        gradients(&*device, "llama");
        checkpointed(&*device, "llama");
        ten_steps(&*device, "llama", "clipped", 0.1);
        packed(&*device, "mistral");
    }

    #[test]
    fn of_qwen2_equals_transformers_and_peft() {
        logits_and_steps("qwen2");
    }

    #[test]
    fn of_qwen3_equals_transformers_and_peft() {
        logits_and_steps("qwen3");
    }

    #[test]
    fn of_gemma3_equals_transformers_and_peft() {
        logits_and_steps("gemma3");
        cached(&*burnish_backends::open("emulator").unwrap(), "gemma3");
    }

    #[test]
    fn of_experts_equals_peft() {
        experts("emulator", &["qwen3moe-all"]);
    }

    /// Soft-caps, norms after the blocks, fused projections with longrope, layers without positions, attention sinks.
    const KINDS: [&str; 5] = ["gemma2", "olmo2", "phi3-long", "smollm3", "gpt-oss"];

    #[test]
    fn of_every_kind_of_block_equals_transformers_and_peft() {
        KINDS.into_iter().for_each(logits_and_steps);
    }

    #[test]
    #[ignore = "takes minutes"]
    fn of_every_family_equals_transformers_and_peft() {
        cases().iter().for_each(|case| logits_and_steps(case));
    }
}
