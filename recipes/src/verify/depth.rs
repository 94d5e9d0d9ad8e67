//! Gradient norms of adapters by depth, over long rows.
//!
//! Gradients that grow from block to block, only on one GPU and only from some length on, were seen with burn on Apple's M1 Max
//! (tracel-ai/burn#5351).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::DType;
use burnish_engine::{
    AdamWConfig, Adapter, Batch, Checkpointing, Device, HostTensor, IGNORE, StepItem, TrainedPart, Trainer,
};
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::LoraConfig;
use burnish_models::{FloatType, LoadOptions, Pretrained};

use super::findings::{Detail, Findings};
use super::golden::one_row;
use super::target::Target;

/// Lengths of rows.
const LENGTHS: [usize; 2] = [1024, 2048];
/// Those of the emulator, which is slower by orders of magnitude: several tiles of attention, with a rest.
const EMULATED: [usize; 2] = [152, 304];

/// Keeps small gradients within the range of f16.
const LOSS_SCALE: f64 = 1024.0;

/// The norms of the adapters' gradients by block, the first block first.
type Norms = Vec<f64>;

/// The lengths of rows that are compared on a backend.
pub(super) fn lengths(backend: &str) -> [usize; 2] {
    if backend.starts_with("emulator") { EMULATED } else { LENGTHS }
}

/// Compares the gradients of the built-in model's adapters with those of the CPU. On the CPU, rows that are packed or checkpointed are
/// compared with those that are not.
///
/// # Errors
/// When the device fails.
pub(super) fn check(target: &Target<'_>, findings: &mut Findings) -> Result<()> {
    let mut pretrained = Pretrained::open(&target.folders.model)?;
    let lengths = lengths(target.backend);
    pretrained.config.max_position_embeddings = lengths[1];
    let ids = long_text(&pretrained, &target.folders.data, lengths[1])?;
    let adapter = adapter_with_gradients(&pretrained, &ids, &target.folders.run.with_file_name("verify-adapter"))?;
    let norms = |backend: &str, dtype: FloatType, item: &StepItem| {
        burnish_backends::enter(backend, |device| gradients(device, &pretrained, &adapter, dtype, item))
    };
    for length in lengths {
        let item = of(vec![one_row(&ids[..length])]);
        let (found, expected) = if target.backend == "cpu" {
            // Its own kernels, computed in two ways.
            let parts = [&ids[..length / 2], &ids[length / 2..length]];
            let packed = StepItem { checkpointing: Some(Checkpointing::of("cpu")), ..of(vec![packed(&parts)]) };
            let apart = of(parts.into_iter().map(one_row).collect());
            (norms("cpu", FloatType::F32, &packed)?, norms("cpu", FloatType::F32, &apart)?)
        } else {
            (norms(target.backend, target.dtype, &item)?, norms("cpu", FloatType::F32, &item)?)
        };
        judge(target, findings, length, &found, &expected);
    }
    Ok(())
}

fn judge(target: &Target<'_>, findings: &mut Findings, length: usize, found: &Norms, expected: &Norms) {
    let row = if target.backend == "cuda" && target.dtype == FloatType::F32 { DType::F16 } else { target.dtype.into() };
    // A norm is the sum of many products: their errors add up over the blocks behind it.
    let allowed = 10.0 * Tolerance::of(row).relative;
    let distance = |(found, expected): (&f64, &f64)| (found / expected - 1.0).abs();
    let worst = found.iter().zip(expected).map(distance).fold(0.0, |worst, next| if next <= worst { worst } else { next });
    let passed = worst <= allowed && found.len() == expected.len();
    findings.details.push(Detail {
        name: format!("gradient norms by depth, {length} tokens: {}", listed(found)),
        dtype: Some(target.dtype.name()),
        passed,
        tolerance_used: Some(worst / allowed),
    });
    if !passed {
        findings.fail(
            format!("LoRA gradients over {length} tokens in {}", target.dtype),
            format!("norms by depth are {}, the CPU has {}", listed(found), listed(expected)),
            "training on long rows diverges or learns nothing on this device; burn#5351 is a fault of this kind",
            format!("{}; until then use --backend cpu, or a smaller max_seq_length", target.whom_for_kernels()),
        );
    }
}

fn listed(norms: &Norms) -> String {
    norms.iter().map(|norm| format!("{norm:.4}")).collect::<Vec<_>>().join(", ")
}

/// Tokens of the built-in conversations, one after the other.
fn long_text(model: &Pretrained, data: &Path, count: usize) -> Result<Vec<u32>> {
    let path = data.join("train.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut ids = Vec::new();
    for line in text.lines() {
        ids.extend(model.tokenizer.encode(line, false)?);
        if ids.len() >= count {
            ids.truncate(count);
            return Ok(ids);
        }
    }
    ensure!(!ids.is_empty(), "{} has no rows", path.display());
    Ok(ids.iter().copied().cycle().take(count).collect())
}

/// Sequences in one row.
fn packed(parts: &[&[u32]]) -> Batch {
    let mut row = one_row(&parts.concat());
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        row.labels[start] = IGNORE;
        for at in 0..part.len() {
            row.position_ids[start + at] = at as u32;
            row.segment_ids[start + at] = index as u32 + 1;
        }
        start += part.len();
    }
    row.target_tokens = start - parts.len();
    row
}

fn of(batches: Vec<Batch>) -> StepItem {
    StepItem { batches, loss_scale: LOSS_SCALE, ..StepItem::default() }
}

/// A fresh adapter's B is zero, and with it the gradient of A: some steps on the CPU make an adapter that has both.
fn adapter_with_gradients(model: &Pretrained, ids: &[u32], folder: &Path) -> Result<PathBuf> {
    let config = LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() };
    burnish_backends::enter("cpu", |device| {
        let part = TrainedPart::Adapters {
            base: &*model.checkpoint,
            options: LoadOptions::frozen(FloatType::F32),
            adapter: Adapter::Fresh { config: &config, seed: 7 },
            reference: None,
        };
        let mut trainer = device.train(&model.config, part, AdamWConfig::default())?;
        for step in 1..=3 {
            let item = StepItem { step, batches: vec![one_row(&ids[..96])], ..StepItem::default() };
            trainer.step(&item, 1e-2)?;
        }
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        trainer.save_adapter(&config, "quickstart", folder)
    })?;
    Ok(folder.to_owned())
}

fn gradients(device: &dyn Device, model: &Pretrained, adapter: &Path, dtype: FloatType, item: &StepItem) -> Result<Norms> {
    let part = TrainedPart::Adapters {
        base: &*model.checkpoint,
        options: LoadOptions::frozen(dtype),
        adapter: Adapter::Folder { path: adapter, dropout: 0.0 },
        reference: None,
    };
    let mut trainer: Box<dyn Trainer> = device.train(&model.config, part, AdamWConfig::default())?;
    trainer.forward_backward(item)?;
    Ok(by_depth(&trainer.gradients(), item.loss_scale))
}

/// One norm a block, over both factors of all its adapters.
fn by_depth(gradients: &[HostTensor], loss_scale: f64) -> Norms {
    let mut squares: BTreeMap<usize, f64> = BTreeMap::new();
    for gradient in gradients {
        let block = gradient.name.split('.').find_map(|part| part.parse().ok()).unwrap_or(0);
        let sum: f64 = gradient.values.iter().map(|value| (f64::from(*value) / loss_scale).powi(2)).sum();
        *squares.entry(block).or_default() += sum;
    }
    squares.into_values().map(f64::sqrt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_taken_over_a_block() {
        let tensor = |name: &str, values: Vec<f32>| HostTensor { name: name.into(), shape: vec![values.len()], values };
        let gradients = [
            tensor("model.layers.10.mlp.up_proj.lora_a", vec![2.0]),
            tensor("model.layers.2.mlp.up_proj.lora_a", vec![6.0]),
            tensor("model.layers.2.mlp.up_proj.lora_b", vec![8.0]),
        ];
        assert_eq!(by_depth(&gradients, 2.0), [5.0, 1.0]);
    }

    #[test]
    fn sequences_in_a_row_are_apart() {
        let row = packed(&[&[5, 6, 7], &[8, 9]]);
        assert_eq!((row.position_ids, row.segment_ids), (vec![0, 1, 2, 0, 1], vec![1, 1, 1, 2, 2]));
        assert_eq!((row.labels, row.target_tokens), (vec![IGNORE, 6, 7, IGNORE, 9], 3));
    }
}
