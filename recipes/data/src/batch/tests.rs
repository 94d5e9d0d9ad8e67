use proptest::prelude::*;

use super::*;

fn example(ids: Range<u32>) -> Example {
    Example { input_ids: ids.clone().collect(), labels: ids.map(i64::from).collect(), desirable: true }
}

fn options(batch_size: usize, max_seq_length: usize, packing: bool, shuffle_seed: Option<u64>) -> BatchOptions {
    BatchOptions {
        batch_size,
        max_seq_length,
        packing,
        padding_free: false,
        shuffle_seed,
        preference_pairs: false,
        granule: 1,
        pad_token_id: 0,
    }
}

fn padding_free(options: BatchOptions) -> BatchOptions {
    BatchOptions { padding_free: true, ..options }
}

#[test]
fn rows_are_padded_on_the_right() {
    let batches = Batches::new(vec![example(1..4), example(11..16)], options(2, 64, false, None));
    let batch = batches.batch(0, 0);
    assert_eq!((batch.rows, batch.length, batch.tokens, batch.target_tokens), (2, 8, 8, 6));
    assert_eq!(batch.input_ids, [1, 2, 3, 0, 0, 0, 0, 0, 11, 12, 13, 14, 15, 0, 0, 0]);
    assert_eq!(batch.labels[..8], [IGNORE, 2, 3, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]);
    assert_eq!(batch.position_ids[8..], [0, 1, 2, 3, 4, 0, 0, 0]);
    assert_eq!(batch.segment_ids[8..], [2, 2, 2, 2, 2, 0, 0, 0]);
}

#[test]
fn rows_without_padding_lie_end_to_end() {
    let examples = vec![example(1..4), example(11..16), example(21..22)];
    let batches = Batches::new(examples, padding_free(options(3, 64, false, None)));
    let batch = batches.batch(0, 0);
    assert_eq!((batch.rows, batch.length, batch.tokens, batch.target_tokens, batch.examples()), (1, 16, 9, 6, 3));
    assert_eq!(batch.input_ids[..10], [1, 2, 3, 11, 12, 13, 14, 15, 21, 0]);
    assert_eq!(batch.labels[..10], [IGNORE, 2, 3, IGNORE, 12, 13, 14, 15, IGNORE, IGNORE]);
    assert_eq!(batch.position_ids[..10], [0, 1, 2, 0, 1, 2, 3, 4, 0, 0]);
    assert_eq!(batch.segment_ids, [1, 1, 1, 2, 2, 2, 2, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch.target_examples(), [0, 0, 1, 1, 1, 1]);
}

#[test]
fn packing_is_first_fit_decreasing() {
    // Of those with equal lengths, the first in the order comes first; the example of 11 tokens exceeds the capacity.
    let lengths = [3, 7, 2, 6, 4, 11, 3, 1];
    let rows = pack::pack(&lengths, &[7, 6, 5, 4, 3, 2, 1, 0], 10);
    assert_eq!(rows, [vec![5], vec![1, 6], vec![3, 4], vec![0, 2, 7]]);
    assert!(pack::pack(&[], &[], 10).is_empty());
}

#[test]
fn full_rows_have_one_shape() {
    let lengths = [50, 50, 50, 50, 60, 40, 70, 30, 50, 50, 90, 10];
    let examples: Vec<Example> = lengths.iter().map(|length| example(0..*length)).collect();
    for options in [options(2, 100, true, Some(1)), padding_free(options(2, 100, true, Some(1)))] {
        let batches = Batches::new(examples.clone(), options);
        let shapes: Vec<Shape> = (0..3).map(|index| batches.epoch(0).shape(index)).collect();
        let expected = if options.padding_free { Shape { length: 200, rows: 1 } } else { Shape { length: 100, rows: 2 } };
        assert_eq!(shapes, [expected; 3]);
    }
}

#[test]
fn the_padded_length_never_exceeds_the_limit() {
    for options in [options(1, 10, false, None), padding_free(options(1, 10, false, None))] {
        assert_eq!(Batches::new(vec![example(0..9)], options).batch(0, 0).length, 10);
    }
}

#[test]
fn packed_examples_have_their_own_positions_and_do_not_predict_each_other() {
    let batches = Batches::new(vec![example(1..4), example(5..8)], options(1, 16, true, None));
    let batch = batches.batch(0, 0);
    assert_eq!(batch.input_ids, [1, 2, 3, 5, 6, 7, 0, 0]);
    assert_eq!(batch.position_ids, [0, 1, 2, 0, 1, 2, 0, 0]);
    assert_eq!(batch.segment_ids, [1, 1, 1, 2, 2, 2, 0, 0]);
    assert_eq!(batch.labels, [IGNORE, 2, 3, IGNORE, 6, 7, IGNORE, IGNORE]);
    assert_eq!(batch.target_tokens, 4);
}

#[test]
fn the_last_step_of_an_epoch_is_smaller() {
    let batches =
        Batches::new((0..7).map(|index| example(index..index + 2)).collect::<Vec<_>>(), options(2, 8, false, Some(1)));
    assert_eq!((batches.per_epoch(), batches.steps_per_epoch(3)), (4, 2));
    assert_eq!((batches.of_step(0, 3), batches.of_step(1, 3), batches.of_step(2, 3)), (0..3, 3..4, 4..4));
    assert_eq!(batches.batch(0, 3).rows, 1);
    assert_eq!(batches.batch(0, 4).rows, 0);
    assert_ne!(batches.batch(0, 0), batches.batch(1, 0));
}

#[test]
fn orders_never_change() {
    // If this fails, runs resumed from older checkpoints get other batches.
    assert_eq!(order::order(8, Some(42), 0), FIRST);
    assert_eq!(order::order(8, Some(42), 1), SECOND);
    assert_eq!(order::order(4, None, 1), [0, 1, 2, 3]);
}

const FIRST: [usize; 8] = [4, 5, 0, 3, 6, 7, 1, 2];
const SECOND: [usize; 8] = [6, 0, 5, 3, 7, 2, 1, 4];

/// The examples of a batch, read back by segment.
fn segments(batch: &Batch) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = Vec::new();
    let mut last = 0;
    for row in 0..batch.rows {
        for at in row * batch.length..(row + 1) * batch.length {
            let segment = batch.segment_ids[at];
            if segment == 0 {
                assert_eq!((batch.labels[at], batch.position_ids[at]), (IGNORE, 0));
                continue;
            }
            if segment > last {
                assert_eq!((segment, batch.position_ids[at], batch.labels[at]), (last + 1, 0, IGNORE));
                found.push(Vec::new());
                last = segment;
            } else {
                assert_eq!(batch.position_ids[at], batch.position_ids[at - 1] + 1);
            }
            if let Some(tokens) = found.last_mut() {
                tokens.push(batch.input_ids[at]);
            }
        }
    }
    found
}

proptest! {
    #[test]
    fn no_token_is_lost_or_mixed(
        lengths in proptest::collection::vec(1_u32..40, 1..60),
        batch_size in 1_usize..5,
        packing in any::<bool>(),
        end_to_end in any::<bool>(),
        seed in proptest::option::of(any::<u64>()),
        epoch in 0_usize..3,
    ) {
        let mut next = 1;
        let examples: Vec<Example> = lengths
            .iter()
            .map(|length| {
                next += length;
                example(next - length..next)
            })
            .collect();
        let options = BatchOptions { padding_free: end_to_end, ..options(batch_size, 40, packing, seed) };
        let batches = Batches::new(examples.clone(), options);
        let mut found = Vec::new();
        let (mut tokens, mut targets) = (0, 0);
        let order = batches.epoch(epoch);
        for (index, batch) in order.iter().enumerate() {
            let limit = if end_to_end { [1, 40 * batch_size] } else { [batch_size, 40] };
            prop_assert!(batch.rows <= limit[0] && batch.length <= limit[1]);
            prop_assert_eq!(order.shape(index), Shape { length: batch.length, rows: batch.rows });
            prop_assert!(!end_to_end || batch.length <= (batch.tokens + batch.tokens / 8).max(batch.tokens + 7));
            prop_assert_eq!(&batch, &batches.batch(epoch, index));
            let counted = batch.labels.iter().filter(|label| **label != IGNORE).count();
            prop_assert_eq!(counted, batch.target_tokens);
            tokens += batch.tokens;
            targets += batch.target_tokens;
            found.extend(segments(&batch));
        }
        prop_assert_eq!(tokens, lengths.iter().sum::<u32>() as usize);
        prop_assert_eq!(targets, tokens - lengths.len());
        if !packing && seed.is_none() {
            prop_assert!(found.iter().zip(&examples).all(|(found, example)| *found == example.input_ids));
        }
        found.sort();
        prop_assert!(found.iter().zip(&examples).all(|(found, example)| *found == example.input_ids));
    }
}

#[test]
fn preference_pairs_stay_together_in_any_order() {
    let example = |id: u32| Example { input_ids: vec![id; 2], labels: vec![i64::from(id); 2], desirable: true };
    let options = BatchOptions { preference_pairs: true, ..options(2, 8, false, Some(3)) };
    let batches = Batches::new((0..10).map(example).collect::<Vec<_>>(), options);
    assert_eq!(batches.per_epoch(), 3);
    let mut seen = Vec::new();
    for batch in batches.epoch(0).iter() {
        let firsts: Vec<u32> = batch.input_ids.chunks_exact(batch.length).map(|row| row[0]).collect();
        assert!(firsts.chunks_exact(2).all(|pair| pair[0] % 2 == 0 && pair[1] == pair[0] + 1), "{firsts:?}");
        seen.extend(firsts);
    }
    assert_ne!(seen, (0..10).collect::<Vec<_>>());
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}
