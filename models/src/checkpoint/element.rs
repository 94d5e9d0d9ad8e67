//! The elements of tensors as files store them: little-endian, in the types of safetensors.

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::Dtype;

use crate::error::Result;
use crate::float_type::FloatType;

/// Bytes that are converted at a time; whole elements of any type.
const PART: usize = 1 << 22;

/// The type of floats that needs no conversion; `None` for other types.
pub(super) fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::F32 => Some(FloatType::F32),
        Dtype::F16 => Some(FloatType::F16),
        Dtype::BF16 => Some(FloatType::BF16),
        _ => None,
    }
}

/// Whether the elements are floats of 8 bits.
pub(super) fn is_float8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// Whether the elements are integers or booleans.
pub(super) fn is_integer(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, BOOL | U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
}

/// The elements as f32; `None` if they are not floats.
pub(super) fn to_f32(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    let values = match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F8_E4M3 => bytes.iter().map(|b| f8_e4m3(*b)).collect(),
        Dtype::F8_E5M2 => bytes.iter().map(|b| f16::from_bits(u16::from(*b) << 8).to_f32()).collect(),
        Dtype::F8_E8M0 => bytes.iter().map(|b| f8_e8m0(*b)).collect(),
        _ => return None,
    };
    Some(values)
}

/// The elements in the given type; `None` if they are not floats. Those of another type are converted in parts.
pub(super) fn convert(name: &str, bytes: &[u8], dtype: Dtype, to: FloatType) -> Option<Result<TensorData>> {
    if float_type(dtype) == Some(to) {
        return Some(Ok(to.read(bytes)));
    }
    to_f32(&[], dtype)?;
    let parts = bytes.chunks(PART).filter_map(|part| to_f32(part, dtype));
    Some(to.convert_parts(name, bytes.len() * 8 / dtype.bitsize(), parts))
}

/// PyTorch's `float8_e4m3fn`: no infinities, and only the largest magnitude is NaN.
///
/// # Source
/// Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
fn f8_e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-9),
        _ => (8.0 + fraction) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// PyTorch's `float8_e8m0fnu`: a power of two.
fn f8_e8m0(byte: u8) -> f32 {
    if byte == 255 { f32::NAN } else { 2f64.powi(i32::from(byte) - 127) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_are_those_of_pytorch() {
        // `torch.tensor(bytes, dtype=torch.uint8).view(dtype).float()`.
        let floats = |bytes: &[u8], dtype| to_f32(bytes, dtype).unwrap();
        let e4m3 = floats(&[0x00, 0x01, 0x07, 0x08, 0x38, 0x39, 0x7e, 0xfe, 0x80], Dtype::F8_E4M3);
        assert_eq!(e4m3, [0.0, 0.001_953_125, 0.013_671_875, 0.015_625, 1.0, 1.125, 448.0, -448.0, 0.0]);
        assert!(e4m3[8].is_sign_negative() && floats(&[0x7f, 0xff], Dtype::F8_E4M3).iter().all(|value| value.is_nan()));
        let e5m2 = floats(&[0x01, 0x3c, 0x3d, 0x7b, 0x7c, 0xfc], Dtype::F8_E5M2);
        assert_eq!(e5m2, [2f32.powi(-16), 1.0, 1.25, 57344.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(floats(&[0, 126, 127, 254], Dtype::F8_E8M0), [2f32.powi(-126) / 2.0, 0.5, 1.0, 2f32.powi(127)]);
    }
}
