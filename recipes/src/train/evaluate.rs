//! Loss on held-out batches.

use anyhow::Result;
use serde::Serialize;

use crate::data::{Batch, Batches};

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

/// Token-weighted loss over at most `most` batches (0 is all). `loss_of` gives the summed loss of a batch; `on_batch` gets the
/// number of batches that are done, and of all.
///
/// # Errors
/// Those of `loss_of`.
pub fn evaluate(
    mut loss_of: impl FnMut(&Batch) -> Result<f64>,
    batches: &Batches,
    most: usize,
    mut on_batch: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let epoch = Batches::epoch(batches, 0);
    let all = batches.per_epoch();
    let count = if most == 0 { all } else { all.min(most) };
    let (mut sum, mut tokens) = (0.0, 0);
    for (index, batch) in epoch.iter().take(count).enumerate() {
        if batch.target_tokens > 0 {
            sum += loss_of(&batch)?;
            tokens += batch.target_tokens;
        }
        on_batch(index + 1, count);
    }
    let loss = sum / tokens.max(1) as f64;
    Ok(Evaluation { loss, perplexity: loss.exp(), tokens })
}
