//! Encodes f32 values in the storage types of ggml.
//!
//! Source: `quantize_row_q8_0_ref` in `ggml-quants.c` of llama.cpp.

use burnish_models::FloatType;
use burnish_models::gguf::GgmlType;
use half::f16;

use crate::error::{ExportError, Result};

/// Encodes the values of the tensor `tensor`.
pub(super) fn encode(kind: GgmlType, tensor: &str, values: &[f32]) -> Result<Vec<u8>> {
    match kind {
        GgmlType::F32 => Ok(FloatType::F32.encode(tensor, values)?),
        GgmlType::F16 => Ok(FloatType::F16.encode(tensor, values)?),
        GgmlType::BF16 => Ok(FloatType::BF16.encode(tensor, values)?),
        GgmlType::Q8_0 => Ok(q8_0(values)),
        other => Err(ExportError::unsupported(format!(
            "expected F32, F16, BF16 or Q8_0, got {other:?}, which can be read but not written"
        ))),
    }
}

/// Blocks of 32 values: the scale `max|x| / 127` as f16, then each value divided by it and rounded to i8.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
    for block in values.chunks_exact(32) {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        bytes.extend(f16::from_f32(scale).to_le_bytes());
        bytes.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_values_are_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        let bytes = q8_0(&values);
        assert_eq!(bytes.len(), 3 * 34);
        for (value, back) in values.iter().zip(GgmlType::Q8_0.dequantize(&bytes)) {
            assert!((value - back).abs() < 0.65 / 127.0 * 0.51, "expected {value}, got {back}");
        }
        assert_eq!(q8_0(&[0.0; 32]), vec![0; 34]);
    }

    #[test]
    fn a_value_outside_the_range_of_f16_is_named() {
        let error = encode(GgmlType::F16, "w", &[1.0, 1e6]).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("1000000"), "{error}");
    }
}
