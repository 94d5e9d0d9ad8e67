//! The input of a forward pass.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};

use crate::linear::AdapterPass;

/// Tokens with their positions and segments.
#[derive(Debug, Clone)]
pub struct ModelInput<B: Backend> {
    /// Token ids, `[batch, length]`.
    pub tokens: Tensor<B, 2, Int>,
    /// The position of each token in its own text, `batch · length` of them in row-major order.
    pub positions: Vec<u32>,
    /// Segment ids, `[batch, length]`: tokens attend only to tokens with the same id. `None` if each row is one text.
    pub segments: Option<Tensor<B, 2, Int>>,
    /// Which adapters the pass uses.
    pub adapters: AdapterPass,
}

impl<B: Backend> ModelInput<B> {
    /// `batch` rows of one text each; `tokens` holds them in row-major order, and the first token of each is at position `start`.
    ///
    /// # Panics
    /// If the tokens can't be divided into that many rows.
    pub fn texts(tokens: &[u32], batch: usize, start: usize, device: &B::Device) -> Self {
        let length = tokens.len() / batch;
        assert_eq!(length * batch, tokens.len(), "expected {batch} rows of equal length, got {} tokens", tokens.len());
        let positions = (0..batch).flat_map(|_| start as u32..(start + length) as u32).collect();
        Self { tokens: int_matrix(tokens, length, device), positions, segments: None, adapters: AdapterPass::default() }
    }

    /// One more token of one text, `[1, 1]`, at position `position`.
    pub fn following(token: Tensor<B, 2, Int>, position: usize) -> Self {
        Self { tokens: token, positions: vec![position as u32], segments: None, adapters: AdapterPass::default() }
    }

    /// Rows of `length` tokens with explicit positions and segment ids, all in row-major order.
    ///
    /// # Panics
    /// If there are not as many positions and segment ids as tokens.
    pub fn packed(tokens: &[u32], positions: &[u32], segments: &[u32], length: usize, device: &B::Device) -> Self {
        assert!(
            tokens.len() == positions.len() && tokens.len() == segments.len(),
            "expected as many positions and segment ids as tokens, got {} tokens, {} positions and {} segment ids",
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

impl<B: AutodiffBackend> ModelInput<B> {
    /// The input on the inner backend.
    pub fn inner(self) -> ModelInput<B::InnerBackend> {
        ModelInput {
            tokens: self.tokens.inner(),
            positions: self.positions,
            segments: self.segments.map(Tensor::inner),
            adapters: self.adapters,
        }
    }
}

fn int_matrix<B: Backend>(values: &[u32], length: usize, device: &B::Device) -> Tensor<B, 2, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let rows = values.len() / length.max(1);
    Tensor::from_data(TensorData::new(values, [rows, length]), device)
}
