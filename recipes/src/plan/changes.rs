//! Changes to a configuration that save memory.

use anyhow::Result;
use serde::Serialize;

use super::{Planned, largest, rows};
use crate::config::{FineTuneType, OptimizerKind, QuantizationKind, TrainConfig};

/// How many are told.
const TOLD: usize = 3;

/// A change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key with its new value, as in a file.
    pub change: String,
    /// The bytes that it saves.
    pub saves: u64,
    /// Whether the run fits with this change alone.
    pub fits: bool,
}

/// The cheapest changes: those that suffice alone first, and among those the ones that cost least time and quality.
pub(super) fn cheapest(planned: &Planned<'_>, available: u64) -> Result<Vec<Change>> {
    let total = planned.memory()?.total();
    let mut changes = Vec::new();
    for (change, config) in candidates(planned, available)? {
        let tokens = planned.tokens.map(|tokens| tokens_of(planned.config, &config, tokens));
        let without_gradients = planned.without_gradients.map(|tokens| tokens_of(planned.config, &config, tokens));
        let left = Planned { config: &config, tokens, without_gradients, ..*planned }.memory()?.total();
        if left < total {
            changes.push(Change { change, saves: total - left, fits: left <= available });
        }
    }
    // The order of the candidates is that of their costs, which a stable sort keeps.
    changes.sort_by_key(|change| (!change.fits, if change.fits { 0 } else { u64::MAX - change.saves }));
    changes.truncate(TOLD);
    Ok(changes)
}

/// The tokens of the largest micro-batch once batch or rows are smaller.
fn tokens_of(before: &TrainConfig, after: &TrainConfig, tokens: usize) -> usize {
    let of_rows = tokens.div_ceil(before.batch_size).saturating_mul(after.batch_size);
    of_rows.min(rows(after).saturating_mul(after.max_seq_length))
}

/// What may be changed, from what costs nothing but a little time to what changes the data.
fn candidates(planned: &Planned<'_>, available: u64) -> Result<Vec<(String, TrainConfig)>> {
    let config = planned.config;
    let mut all: Vec<(String, TrainConfig)> = Vec::new();
    let mut add = |change: String, config: TrainConfig| all.push((change, config));
    // Smaller micro-batches with more accumulation learn the same.
    if config.batch_size > 1 {
        let fitting = largest::batch_size(planned, available)?.clamp(1, config.batch_size - 1);
        let of_step = config.batch_size * config.grad_accumulation_steps;
        // A step has as many rows as before, so only their divisors count.
        let fitting = (1..=fitting).rev().find(|rows| of_step % rows == 0).unwrap_or(1);
        let accumulation = of_step / fitting;
        let change = format!("batch_size = {fitting} with grad_accumulation_steps = {accumulation}");
        add(change, TrainConfig { batch_size: fitting, grad_accumulation_steps: accumulation, ..config.clone() });
    }
    if !config.grad_checkpoint {
        add("grad_checkpoint = true".to_owned(), TrainConfig { grad_checkpoint: true, ..config.clone() });
    }
    if config.fine_tune_type == FineTuneType::Full && config.optimizer == OptimizerKind::Adamw {
        let change = "optimizer = \"adamw8bit\"".to_owned();
        add(change, TrainConfig { optimizer: OptimizerKind::Adamw8bit, ..config.clone() });
    }
    let is_lora = config.fine_tune_type == FineTuneType::Lora;
    let packs = !matches!(config.quantization, QuantizationKind::None | QuantizationKind::Auto);
    if is_lora && !packs && !config.lora().init.changes_base() {
        let change = "quantization = \"nf4\"".to_owned();
        add(change, TrainConfig { quantization: QuantizationKind::Nf4, ..config.clone() });
    }
    if is_lora && !config.quantize_embedding {
        add("quantize_embedding = true".to_owned(), TrainConfig { quantize_embedding: true, ..config.clone() });
    }
    if !is_lora && config.model_config.is_none() {
        let lora = TrainConfig { fine_tune_type: FineTuneType::Lora, ..config.clone() };
        add("fine_tune_type = \"lora\"".to_owned(), lora);
    }
    let length = planned.length();
    if length > 2 {
        let fitting = largest::max_seq_length(planned, available)?.clamp(2, length - 1);
        let shorter = if fitting == 2 { length / 2 } else { fitting };
        add(format!("max_seq_length = {shorter}"), TrainConfig { max_seq_length: shorter, ..config.clone() });
    }
    Ok(all)
}
