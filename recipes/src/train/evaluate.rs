//! Loss on held-out batches.

use anyhow::Result;
use burnish_kernels::FusedBackend;
use burnish_models::LanguageModel;
use serde::Serialize;

use super::model::batch_loss;
use super::strategy::scalar;
use crate::data::Batches;

/// What came of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean over all predicted tokens.
    pub loss: f64,
    /// `e` to that.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: usize,
}

/// Token-weighted loss over at most `most` batches (0 is all); `on_batch` gets the share that is done.
///
/// # Errors
/// When the device fails.
pub fn evaluate<B: FusedBackend>(
    model: &LanguageModel<B>,
    batches: &Batches,
    most: usize,
    device: &B::Device,
    mut on_batch: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let epoch = Batches::epoch(batches, 0);
    let all = batches.per_epoch();
    let count = if most == 0 { all } else { all.min(most) };
    let (mut sum, mut tokens) = (0.0, 0);
    for (index, batch) in epoch.iter().take(count).enumerate() {
        if batch.target_tokens > 0 {
            sum += scalar(batch_loss(model, &batch, None, device))?;
            tokens += batch.target_tokens;
        }
        on_batch(index + 1, count);
    }
    let loss = sum / tokens.max(1) as f64;
    Ok(Evaluation { loss, perplexity: loss.exp(), tokens })
}
