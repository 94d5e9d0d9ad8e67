//! A step of a run without its rows.

use burnish_engine::{Batch, Checkpointing, Objective, StepItem};

use crate::config::TrainConfig;

/// A step of the largest micro-batch of a configuration: full rows, all of whose tokens are trained on.
pub fn synthetic_step(config: &TrainConfig, vocabulary: usize, longest: usize) -> StepItem {
    let answers = if config.recipe.has_pairs() { 2 } else { 1 };
    let (rows, length) = (config.batch_size * answers, config.max_seq_length.min(longest).max(2));
    let token = |at: usize| (at * 31 % vocabulary.max(1)) as u32;
    let input_ids: Vec<u32> = (0..rows * length).map(token).collect();
    let is_first = |at: usize| at.is_multiple_of(length);
    let labels: Vec<i64> =
        input_ids.iter().enumerate().map(|(at, id)| if is_first(at) { -100 } else { i64::from(*id) }).collect();
    let batch = Batch {
        labels,
        position_ids: (0..rows * length).map(|at| (at % length) as u32).collect(),
        segment_ids: (0..rows * length).map(|at| (at / length) as u32 + 1).collect(),
        // As without padding: the rows end to end.
        rows: if config.padding_free { 1 } else { rows },
        length: if config.padding_free { rows * length } else { length },
        tokens: rows * length,
        target_tokens: rows * (length - 1),
        desirable: Vec::new(),
        input_ids,
    };
    // The products of a step don't depend on its objective, except that some have a reference model beside.
    StepItem {
        batches: vec![batch],
        seed: config.seed,
        objective: Objective::Tokens,
        checkpointing: config.grad_checkpoint.then(|| Checkpointing::of(&config.backend)),
        ..StepItem::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_full_and_as_long_as_the_model_allows() {
        let config = TrainConfig { batch_size: 3, max_seq_length: 64, padding_free: false, ..TrainConfig::default() };
        let batch = &synthetic_step(&config, 100, 32).batches[0];
        assert_eq!((batch.rows, batch.length, batch.tokens, batch.target_tokens, batch.examples()), (3, 32, 96, 93, 3));
        assert!(batch.input_ids.iter().all(|id| *id < 100));
        assert_eq!(batch.labels.iter().filter(|label| **label == -100).count(), 3);
        let free = &synthetic_step(&TrainConfig { padding_free: true, ..config }, 100, 64).batches[0];
        assert_eq!((free.rows, free.length, free.examples(), free.position_ids[64]), (1, 192, 3, 0));
    }
}
