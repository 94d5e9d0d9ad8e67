//! A batch of token rows.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use burnish_models::ModelInput;

/// Label of a token that is not trained on.
pub const IGNORE: i64 = -100;

/// Rows of tokens, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[rows, length]`: the tokens.
    pub input_ids: Vec<u32>,
    /// `[rows, length]`: the token itself if it is trained on, else -100, as for the first token of each segment. The loss compares
    /// the prediction at position `i` with `labels[i + 1]`.
    pub labels: Vec<i64>,
    /// `[rows, length]`: position of each token in its own example.
    pub position_ids: Vec<u32>,
    /// `[rows, length]`: the example of the batch that a token belongs to, from 1; 0 is padding.
    pub segment_ids: Vec<u32>,
    /// Number of rows; each has one or more examples.
    pub rows: usize,
    /// Tokens in a row, padding included.
    pub length: usize,
    /// Tokens that are not padding.
    pub tokens: usize,
    /// Labels that are trained on.
    pub target_tokens: usize,
    /// `[examples]`: whether the answer of each is one to learn, or one to unlearn; empty where rows don't tell.
    pub desirable: Vec<bool>,
}

/// The predicted tokens of a batch.
#[derive(Debug, Clone)]
pub struct Targets<B: Backend> {
    /// `[tokens]`: row-major positions of the hidden states that predict them.
    pub positions: Tensor<B, 1, Int>,
    /// `[tokens]`: their ids.
    pub labels: Tensor<B, 1, Int>,
    /// The predicted tokens, which come first. The others fill the bucket: positions that predict nothing, with label 0.
    pub count: usize,
}

/// The next length that batches may have. Lengths are 1/16 to 1/8 of themselves apart, and so few that the buffers of a device, and the
/// kernels that are compiled for them, soon repeat. Long ones, whose sums of many rows vary less, are half as far apart.
pub fn bucket(length: usize) -> usize {
    let steps = if length > MANY { 32 } else { 16 };
    length.next_multiple_of((length.next_power_of_two() / steps).max(8))
}

/// Tokens of a long batch.
const MANY: usize = 4096;

impl Batch {
    /// The tokens on a device.
    pub fn to_input<B: Backend>(&self, device: &B::Device) -> ModelInput<B> {
        ModelInput::packed(&self.input_ids, &self.position_ids, &self.segment_ids, self.length, device)
    }

    /// The predicted tokens of the batch, on a device, in a [`bucket`].
    pub fn to_targets<B: Backend>(&self, device: &B::Device) -> Targets<B> {
        let (mut positions, mut labels): (Vec<i32>, Vec<i32>) =
            self.learned().map(|(index, label)| (index as i32 - 1, label as i32)).unzip();
        let count = positions.len();
        let size = bucket(count).min(self.labels.len());
        // Positions must differ from each other.
        let unused = (0..self.labels.len()).filter(|index| !self.is_learned(index + 1));
        positions.extend(unused.take(size - count).map(|index| index as i32));
        labels.resize(size, 0);
        let ints = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [size]), device);
        Targets { positions: ints(positions), labels: ints(labels), count }
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.segment_ids.iter().copied().max().unwrap_or(0) as usize
    }

    /// The example of each predicted token, from 0, in the order of their losses.
    pub fn target_examples(&self) -> Vec<usize> {
        self.learned().map(|(index, _)| self.segment_ids[index].saturating_sub(1) as usize).collect()
    }

    /// For each predicted token, in the same order, whether `other`, a batch of the same tokens, predicts it too.
    pub fn is_predicted_by(&self, other: &Self) -> Vec<bool> {
        self.learned().map(|(index, _)| other.is_learned(index)).collect()
    }

    fn is_learned(&self, index: usize) -> bool {
        self.labels.get(index).is_some_and(|label| *label != IGNORE) && !index.is_multiple_of(self.length)
    }

    fn learned(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.labels.iter().copied().enumerate().filter(|(index, _)| self.is_learned(*index))
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn buckets_are_few_and_waste_at_most_an_eighth() {
        assert_eq!([0, 1, 8, 9, 100, 129, 2047, 2048, 2049].map(bucket), [0, 8, 8, 16, 104, 144, 2048, 2048, 2304]);
        for length in 64..5000 {
            let found = bucket(length);
            assert!(found >= length && (found - length) * 8 <= length && bucket(found) == found, "{length}: {found}");
        }
        for length in MANY + 1..20_000 {
            let found = bucket(length);
            assert!(found >= length && (found - length) * 16 <= length && bucket(found) == found, "{length}: {found}");
        }
        let mut sizes: Vec<usize> = (512..=8192).map(bucket).collect();
        sizes.dedup();
        assert_eq!(sizes.len(), 3 * 8 + 16 + 1);
    }

    #[test]
    fn targets_fill_their_bucket_with_positions_that_predict_nothing() {
        // Two examples of 6 and 5 tokens, whose first tokens and the padding are not learned.
        let learned = [1..6, 7..11];
        let label = |index: usize| if learned.iter().any(|span| span.contains(&index)) { 7 } else { IGNORE };
        let batch = Batch {
            input_ids: vec![7; 16],
            labels: (0..16).map(label).collect(),
            position_ids: vec![0; 16],
            segment_ids: (0..16).map(|index| [1, 2, 0][usize::from(index >= 6) + usize::from(index >= 11)]).collect(),
            rows: 1,
            length: 16,
            tokens: 11,
            target_tokens: 9,
            desirable: Vec::new(),
        };
        let Targets { positions, labels, count } = batch.to_targets::<Flex>(&Default::default());
        let positions: Vec<i64> = positions.into_data().iter::<i64>().collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10, 11, 12, 13, 14, 15]);
        let labels: Vec<i64> = labels.into_data().iter::<i64>().collect();
        assert_eq!((count, labels), (9, [vec![7; 9], vec![0; 7]].concat()));
        assert_eq!((batch.examples(), batch.target_examples()), (2, vec![0, 0, 0, 0, 0, 1, 1, 1, 1]));
    }
}
