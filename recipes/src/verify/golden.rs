//! What transformers computes with the built-in model, and how close a device must come.

use anyhow::{Context, Result};
use burn::tensor::DType;
use burnish_engine::Batch;
use burnish_kernels::tolerance::Tolerance;
use burnish_models::FloatType;
use serde::Deserialize;

/// Written by `tests/scripts/make_quickstart_logits.py`.
#[derive(Debug, Deserialize)]
pub(super) struct Golden {
    /// What is asked.
    pub prompt: String,
    /// The most probable answer.
    pub answer: String,
    /// The prompt's tokens.
    pub input_ids: Vec<u32>,
    /// The mean loss of the prompt's tokens.
    pub loss: f64,
    /// The logits after the last one.
    pub last_logits: Vec<f32>,
}

impl Golden {
    /// # Errors
    /// If the built-in file is not one.
    pub(super) fn open() -> Result<Self> {
        serde_json::from_str(include_str!("../../assets/quickstart/logits.json")).context("logits.json")
    }
}

/// A batch of one row, which is learned as a whole.
pub(super) fn one_row(ids: &[u32]) -> Batch {
    let length = ids.len();
    Batch {
        input_ids: ids.to_vec(),
        labels: ids.iter().map(|id| i64::from(*id)).collect(),
        position_ids: (0..length as u32).collect(),
        segment_ids: vec![1; length],
        rows: 1,
        length,
        tokens: length,
        target_tokens: length.saturating_sub(1),
        desirable: Vec::new(),
    }
}

/// How close a whole model comes to the reference: errors of operations add up over its layers.
pub(super) fn of_model(dtype: FloatType, backend: &str) -> Tolerance {
    // Products of f32 are those of TensorFloat-32 there, which is as coarse as f16.
    let row = if backend == "cuda" && dtype == FloatType::F32 { DType::F16 } else { dtype.into() };
    let Tolerance { relative, absolute } = Tolerance::of(row);
    Tolerance { relative: 10.0 * relative, absolute: 10.0 * absolute }
}

/// Compares logits, measured in the largest one. Returns the largest distance as a share of what is allowed.
///
/// # Errors
/// A sentence about the worst one.
pub(super) fn close(found: &[f32], expected: &[f32], tolerance: Tolerance) -> Result<f64, String> {
    if found.len() != expected.len() {
        return Err(format!("expected {} values, got {}", expected.len(), found.len()));
    }
    let largest = f64::from(expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()))).max(1e-9);
    let mut worst = (0.0, 0);
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (f64::from(found) / largest, f64::from(expected) / largest);
        let share = (found - expected).abs() / (tolerance.absolute + tolerance.relative * expected.abs());
        if share.is_nan() || share > worst.0 {
            worst = (share, index);
        }
    }
    let (share, index) = worst;
    if share <= 1.0 { Ok(share) } else { Err(format!("value {index}: expected {}, got {}", expected[index], found[index])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_compared_by_the_largest() {
        let tolerance = of_model(FloatType::F32, "cpu");
        let share = close(&[100.0, 0.01], &[100.0, 0.0], tolerance).unwrap();
        assert!((0.1..0.3).contains(&share), "{share}");
        assert_eq!(close(&[100.0, 0.1], &[100.0, 0.0], tolerance).unwrap_err(), "value 1: expected 0, got 0.1");
        assert!(close(&[f32::NAN, 0.1], &[100.0, 0.1], tolerance).is_err());
        assert!(of_model(FloatType::F32, "cuda").relative > tolerance.relative);
    }

    #[test]
    fn the_golden_file_is_of_the_built_in_model() {
        let golden = Golden::open().unwrap();
        assert_eq!((golden.last_logits.len(), golden.prompt.as_str()), (512, crate::quickstart::PROMPTS[0]));
    }
}
