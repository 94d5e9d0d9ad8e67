//! What a model reads in one forward pass.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::linear::AdapterPass;

/// Tokens with their positions and segments.
#[derive(Debug, Clone)]
pub struct ModelInput<B: Backend> {
    /// `[batch, length]`.
    pub tokens: Tensor<B, 2, Int>,
    /// Position of every token in its own text, row-major.
    pub positions: Vec<u32>,
    /// `[batch, length]`: tokens of different ids don't see each other. Absent when each row is one text.
    pub segments: Option<Tensor<B, 2, Int>>,
    /// What the pass makes of the adapters.
    pub adapters: AdapterPass,
}

impl<B: Backend> ModelInput<B> {
    /// Rows of tokens that are one text each, the first token at position `start`.
    ///
    /// # Panics
    /// When the tokens are no whole number of rows.
    pub fn texts(tokens: &[u32], batch: usize, start: usize, device: &B::Device) -> Self {
        let length = tokens.len() / batch;
        assert_eq!(length * batch, tokens.len(), "{} tokens are no {batch} rows", tokens.len());
        let positions = (0..batch).flat_map(|_| start as u32..(start + length) as u32).collect();
        Self { tokens: int_matrix(tokens, length, device), positions, segments: None, adapters: AdapterPass::default() }
    }

    /// Rows of tokens with explicit positions and segment ids, all row-major with rows of `length`.
    ///
    /// # Panics
    /// When the three differ in length.
    pub fn packed(tokens: &[u32], positions: &[u32], segments: &[u32], length: usize, device: &B::Device) -> Self {
        assert!(
            tokens.len() == positions.len() && tokens.len() == segments.len(),
            "{} tokens, {} positions, {} segment ids",
            tokens.len(),
            positions.len(),
            segments.len()
        );
        Self {
            tokens: int_matrix(tokens, length, device),
            positions: positions.to_vec(),
            segments: Some(int_matrix(segments, length, device)),
            adapters: AdapterPass::default(),
        }
    }
}

fn int_matrix<B: Backend>(values: &[u32], length: usize, device: &B::Device) -> Tensor<B, 2, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let rows = values.len() / length.max(1);
    Tensor::from_data(TensorData::new(values, [rows, length]), device)
}
