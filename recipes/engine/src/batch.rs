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
    /// `[rows, length]`: the example of its row that a token belongs to, from 1; 0 is padding.
    pub segment_ids: Vec<u32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row, padding included.
    pub length: usize,
    /// Tokens that are not padding.
    pub tokens: usize,
    /// Labels that are trained on.
    pub target_tokens: usize,
}

/// The predicted tokens of a batch.
#[derive(Debug, Clone)]
pub struct Targets<B: Backend> {
    /// `[tokens]`: row-major positions of the hidden states that predict them.
    pub positions: Tensor<B, 1, Int>,
    /// `[tokens]`: their ids.
    pub labels: Tensor<B, 1, Int>,
}

impl Batch {
    /// The tokens on a device.
    pub fn to_input<B: Backend>(&self, device: &B::Device) -> ModelInput<B> {
        ModelInput::packed(&self.input_ids, &self.position_ids, &self.segment_ids, self.length, device)
    }

    /// The predicted tokens of the batch, on a device.
    pub fn to_targets<B: Backend>(&self, device: &B::Device) -> Targets<B> {
        let (positions, labels): (Vec<i32>, Vec<i32>) =
            self.learned().map(|(index, label)| (index as i32 - 1, label as i32)).unzip();
        let ints = |values: Vec<i32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), device)
        };
        Targets { positions: ints(positions), labels: ints(labels) }
    }

    /// The row of each predicted token, in the order of their losses.
    pub fn target_rows(&self) -> Vec<usize> {
        self.learned().map(|(index, _)| index / self.length).collect()
    }

    fn learned(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        let labels = self.labels.iter().copied().enumerate();
        labels.filter(|(index, label)| *label != IGNORE && index % self.length != 0)
    }
}
