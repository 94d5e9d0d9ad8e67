//! The repairs of Metal code that kernels met.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use burnish_engine::{AdamWConfig, Adapter, Batch, StepItem, TrainedPart};
use burnish_lora::LoraConfig;
use burnish_models::{LoadOptions, Pretrained};
use serde::Serialize;

use crate::quickstart::unpack;

/// A rule of repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairFacts {
    /// Its name, for `BURNISH_SKIP_REPAIR`.
    pub rule: &'static str,
    /// Kernels of a training step whose code it changed.
    pub kernels: usize,
    /// What is wrong with the code.
    pub fault: &'static str,
    /// Where the fault comes from.
    pub upstream: &'static str,
}

/// The rules that kernels of this process met so far, with the number of kernels.
pub fn met() -> BTreeMap<&'static str, usize> {
    #[cfg(feature = "metal")]
    return burnish_metal::repair::met();
    #[cfg(not(feature = "metal"))]
    BTreeMap::new()
}

/// The rules that the user switched off; none if a name is unknown, which [`checked`] refuses.
pub fn skipped() -> Vec<&'static str> {
    checked().unwrap_or_default()
}

/// The rules that the user switched off.
///
/// # Errors
/// The message about the first unknown name.
pub fn checked() -> Result<Vec<&'static str>, String> {
    #[cfg(feature = "metal")]
    return burnish_metal::repair::skipped();
    #[cfg(not(feature = "metal"))]
    Ok(Vec::new())
}

/// The backend of this build whose kernels are Metal code.
pub(super) fn backend() -> Option<&'static str> {
    burnish_backends::built_in().find(|name| matches!(*name, "metal" | "emulator"))
}

/// The rules that the kernels of a training step meet on a backend.
///
/// # Errors
/// When the step fails.
pub(super) fn of_a_step(backend: &str) -> Result<Vec<RepairFacts>> {
    let folder = tempfile::Builder::new().prefix("burnish-env").tempdir().context("the folder for temporary files")?;
    let model = Pretrained::open(unpack(folder.path())?.model)?;
    let dtype = burnish_backends::dtype::choose(backend, "auto")?.dtype;
    let config = LoraConfig { rank: 8, ..LoraConfig::default() };
    burnish_backends::enter(backend, |device| {
        let part = TrainedPart::Adapters {
            base: &*model.checkpoint,
            options: LoadOptions::frozen(dtype),
            adapter: Adapter::Fresh { config: &config, seed: 1 },
            reference: None,
        };
        let mut trainer = device.train(&model.config, part, AdamWConfig::default())?;
        let length = 16;
        let batch = Batch {
            input_ids: (0..length).map(|id| id * 7 % 500 + 3).collect(),
            labels: (0..length).map(|id| i64::from(id * 7 % 500 + 3)).collect(),
            position_ids: (0..length).collect(),
            segment_ids: vec![1; length as usize],
            rows: 1,
            length: length as usize,
            tokens: length as usize,
            target_tokens: length as usize - 1,
            desirable: Vec::new(),
        };
        trainer.step(&StepItem { batches: vec![batch], ..StepItem::default() }, 1e-3)?;
        Ok(())
    })?;
    Ok(described(&met()))
}

#[allow(unused_variables, reason = "a build without Metal has no rules")]
fn described(met: &BTreeMap<&'static str, usize>) -> Vec<RepairFacts> {
    #[cfg(feature = "metal")]
    return burnish_metal::repair::RULES
        .iter()
        .filter_map(|rule| {
            let kernels = *met.get(rule.name)?;
            Some(RepairFacts { rule: rule.name, kernels, fault: rule.fault, upstream: rule.upstream })
        })
        .collect();
    #[cfg(not(feature = "metal"))]
    Vec::new()
}
