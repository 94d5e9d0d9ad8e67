//! A batch of token rows.

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

impl Batch {
    /// Indices of the hidden states that predict a label, and those labels.
    pub(crate) fn targets(&self) -> (Vec<i32>, Vec<i32>) {
        self.learned().map(|(index, label)| (index as i32 - 1, label as i32)).unzip()
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
