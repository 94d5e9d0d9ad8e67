//! Loss on held-out batches.

use anyhow::Result;
use burnish_engine::{LossSums, Objective};
use serde::Serialize;

use crate::data::{Batch, Batches};

/// The result of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean over all predicted tokens, or over the items that the objective counts.
    pub loss: f64,
    /// `exp(loss)`, if the loss is a mean over tokens.
    pub perplexity: Option<f64>,
    /// Predicted tokens.
    pub tokens: usize,
}

/// Mean loss over at most `limit` batches (0: all), per token or per item that the objective counts. `loss_of` returns the sums of a
/// batch; `on_batch` gets the number of finished batches and their total.
///
/// # Errors
/// Those of `loss_of`.
pub fn evaluate(
    mut loss_of: impl FnMut(&Batch) -> Result<LossSums>,
    batches: &Batches,
    objective: &Objective,
    limit: usize,
    mut on_batch: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let epoch = batches.epoch(0);
    let all = batches.per_epoch();
    let count = if limit == 0 { all } else { all.min(limit) };
    let (mut sums, mut tokens) = (LossSums::default(), 0);
    for (index, batch) in epoch.iter().take(count).enumerate() {
        if batch.target_tokens > 0 {
            sums.add(&loss_of(&batch)?);
            tokens += batch.target_tokens;
        }
        on_batch(index + 1, count);
    }
    // Without predicted tokens there is no loss, and 0 would count as the best one.
    let loss = sums.mean();
    let perplexity = matches!(objective, Objective::Tokens).then(|| loss.exp());
    Ok(Evaluation { loss, perplexity, tokens })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{BatchOptions, Example};

    #[test]
    fn the_loss_is_a_mean_over_tokens_and_nan_without_any() {
        let example = |learned: usize| Example {
            input_ids: vec![1; 8],
            labels: (0..8).map(|index| if index >= 8 - learned { 1 } else { crate::data::IGNORE }).collect(),
            desirable: true,
        };
        let options = BatchOptions {
            batch_size: 1,
            max_seq_length: 8,
            packing: false,
            padding_free: true,
            shuffle_seed: None,
            preference_pairs: false,
            granule: 1,
            pad_token_id: 0,
        };
        let of = |learned: &[usize]| {
            let batches = Batches::new(learned.iter().map(|learned| example(*learned)).collect::<Vec<_>>(), options);
            evaluate(
                |batch| Ok(LossSums::of_tokens((batch.target_tokens * batch.target_tokens) as f64, batch.target_tokens)),
                &batches,
                &Objective::Tokens,
                0,
                |_, _| {},
            )
            .unwrap()
        };
        let found = of(&[1, 3]);
        assert!((found.loss - 10.0 / 4.0).abs() < 1e-12 && found.tokens == 4, "{found:?}");
        assert!(of(&[0]).loss.is_nan());
    }
}
