//! Encodes f32 values in the storage types of ggml.

use burnish_models::FloatType;
use burnish_models::gguf::GgmlType;

use crate::error::Result;

/// Encodes the values of the tensor `tensor`, which has rows of `columns` values.
pub(super) fn encode(kind: GgmlType, tensor: &str, values: &[f32], columns: usize) -> Result<Vec<u8>> {
    match kind {
        GgmlType::F32 => Ok(FloatType::F32.encode(tensor, values)?),
        GgmlType::F16 => Ok(FloatType::F16.encode(tensor, values)?),
        GgmlType::BF16 => Ok(FloatType::BF16.encode(tensor, values)?),
        packed => Ok(packed.quantize(tensor, values, [values.len() / columns.max(1), columns])?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_the_range_of_f16_is_named() {
        for kind in [GgmlType::F16, GgmlType::Q8_0] {
            let mut values = [1.0; 32];
            values[7] = 1e8;
            let error = encode(kind, "w", &values, 32).unwrap_err().to_string();
            assert!(error.contains("`w`"), "{error}");
        }
    }
}
