//! Encodes the values of tensors in the storage types of ggml.

use burnish_kernels::packed::Element;
use burnish_models::FloatType;
use burnish_models::gguf::GgmlType;
use bytemuck::AnyBitPattern;
use half::{bf16, f16};

use super::writer::PlannedTensor;
use crate::error::{ExportError, Result};

/// Encodes whole rows of a tensor, with the importance of its columns if that is known.
pub(super) fn encode(tensor: &PlannedTensor, values: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>> {
    let name = &tensor.name;
    if !tensor.kind.is_packed() {
        check_finite(name, values)?;
    }
    match tensor.kind {
        GgmlType::F32 => Ok(FloatType::F32.encode(name, values)?),
        GgmlType::F16 => Ok(FloatType::F16.encode(name, values)?),
        GgmlType::BF16 => Ok(FloatType::BF16.encode(name, values)?),
        _ => quantize(tensor, values, importance),
    }
}

/// Refuses values that make every answer of the model useless, as the quantisation of matrices does.
pub(super) fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    // Divisors of frequencies that are not to turn may be infinite.
    let is_wrong = |value: &&f32| value.is_nan() || (value.is_infinite() && !name.starts_with("rope_"));
    match values.iter().find(is_wrong) {
        Some(value) => Err(ExportError::unsupported(format!("`{name}` has the value {value}, which is not finite"))),
        None => Ok(()),
    }
}

/// Encodes whole rows of a tensor that are stored in the type `from`.
pub(super) fn recode(tensor: &PlannedTensor, from: GgmlType, bytes: &[u8], importance: Option<&[f32]>) -> Result<Vec<u8>> {
    let direct = match from {
        _ if !tensor.kind.is_packed() => None,
        GgmlType::F32 => of_floats::<f32>(tensor, bytes, importance),
        GgmlType::F16 => of_floats::<f16>(tensor, bytes, importance),
        GgmlType::BF16 => of_floats::<bf16>(tensor, bytes, importance),
        _ => None,
    };
    direct.unwrap_or_else(|| encode(tensor, &from.dequantize(bytes), importance))
}

/// Quantises floats where they lie; `None` where this computer can't read them there.
fn of_floats<T: Element + AnyBitPattern>(
    tensor: &PlannedTensor,
    bytes: &[u8],
    importance: Option<&[f32]>,
) -> Option<Result<Vec<u8>>> {
    let values = bytemuck::try_cast_slice::<u8, T>(bytes).ok().filter(|_| cfg!(target_endian = "little"))?;
    Some(quantize(tensor, values, importance))
}

fn quantize<T: Element>(tensor: &PlannedTensor, values: &[T], importance: Option<&[f32]>) -> Result<Vec<u8>> {
    let columns = tensor.columns();
    Ok(tensor.kind.quantize_weighted(&tensor.name, values, [values.len() / columns.max(1), columns], importance)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_the_range_of_f16_is_named() {
        for kind in [GgmlType::F16, GgmlType::Q8_0] {
            let mut values = [1.0; 32];
            values[7] = 1e8;
            let tensor = PlannedTensor { name: "w".to_owned(), shape: vec![1, 32], kind };
            let error = encode(&tensor, &values, None).unwrap_err().to_string();
            assert!(error.contains("`w`"), "{error}");
        }
    }

    #[test]
    fn floats_are_quantised_alike_wherever_they_lie() {
        let values: Vec<f32> = (0..512).map(|at| f16::from_f32((at as f32 * 0.7).sin()).to_f32()).collect();
        let tensor = PlannedTensor { name: "w".to_owned(), shape: vec![2, 256], kind: GgmlType::Q4K };
        let expected = encode(&tensor, &values, None).unwrap();
        let halves: Vec<f16> = values.iter().copied().map(f16::from_f32).collect();
        let mut shifted = vec![0];
        shifted.extend_from_slice(bytemuck::cast_slice(&halves));
        for bytes in [bytemuck::cast_slice(&halves), &shifted[1..]] {
            assert_eq!(recode(&tensor, GgmlType::F16, bytes, None).unwrap(), expected);
        }
    }
}
