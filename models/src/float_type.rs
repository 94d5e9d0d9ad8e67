//! The float types of weights and activations.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{ModelError, Result};

/// A float type: what a model computes in, or what its weights are stored as.
///
/// Adapters, optimizer moments and losses are f32 whatever the model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatType {
    /// IEEE single precision, 32 bits.
    #[default]
    F32,
    /// IEEE half precision, 16 bits; its largest value is 65504.
    F16,
    /// The upper 16 bits of an f32: the same range, 8 bits of precision.
    BF16,
}

impl FloatType {
    /// Every float type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// The name on the command line: `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// The name in safetensors headers and GGUF files: `F32`, `F16` or `BF16`.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The name in `config.json`: `float32`, `float16` or `bfloat16`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Converts the values of the tensor `name` to this type, rounding to nearest even. The result has one dimension.
    ///
    /// # Errors
    /// [`ModelError::Overflow`] if a value is outside the range of f16.
    pub fn convert(self, name: &str, values: Vec<f32>) -> Result<TensorData> {
        let length = values.len();
        match self {
            Self::F32 => Ok(TensorData::new(values, [length])),
            Self::F16 | Self::BF16 => self.convert_parts(name, length, std::iter::once(values)),
        }
    }

    /// As [`FloatType::convert`], of values that come in parts, `length` altogether: a large tensor then never exists as f32.
    ///
    /// # Errors
    /// As [`FloatType::convert`].
    pub(crate) fn convert_parts(
        self,
        name: &str,
        length: usize,
        parts: impl Iterator<Item = Vec<f32>>,
    ) -> Result<TensorData> {
        match self {
            Self::F32 => {
                let mut values = Vec::with_capacity(length);
                parts.for_each(|part| values.extend(part));
                Ok(TensorData::new(values, [length]))
            }
            Self::F16 => {
                let mut halves = vec![f16::ZERO; length];
                let mut at = 0;
                for part in parts {
                    self.check_range(name, &part)?;
                    halves[at..at + part.len()].convert_from_f32_slice(&part);
                    at += part.len();
                }
                Ok(TensorData::new(halves, [length]))
            }
            Self::BF16 => {
                let mut halves = vec![bf16::ZERO; length];
                let mut at = 0;
                for part in parts {
                    halves[at..at + part.len()].convert_from_f32_slice(&part);
                    at += part.len();
                }
                Ok(TensorData::new(halves, [length]))
            }
        }
    }

    /// The values of the tensor `name` as little-endian bytes of this type, rounded to nearest even.
    ///
    /// # Errors
    /// [`ModelError::Overflow`] if a value is outside the range of f16.
    pub fn encode(self, name: &str, values: &[f32]) -> Result<Vec<u8>> {
        self.check_range(name, values)?;
        Ok(match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        })
    }

    /// Reads little-endian bytes of this type. The result has one dimension.
    pub(crate) fn read(self, bytes: &[u8]) -> TensorData {
        match self {
            Self::F32 => {
                let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                let length = values.len();
                TensorData::new(values, [length])
            }
            Self::F16 => {
                let values: Vec<f16> = bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
                let length = values.len();
                TensorData::new(values, [length])
            }
            Self::BF16 => {
                let values: Vec<bf16> = bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect();
                let length = values.len();
                TensorData::new(values, [length])
            }
        }
    }

    fn check_range(self, name: &str, values: &[f32]) -> Result<()> {
        let largest = f16::MAX.to_f32();
        match values.iter().find(|value| self == Self::F16 && value.abs() > largest) {
            Some(value) => Err(ModelError::Overflow { tensor: name.to_owned(), value: *value }),
            None => Ok(()),
        }
    }
}

impl From<FloatType> for DType {
    fn from(float: FloatType) -> Self {
        match float {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::BF16 => Self::BF16,
        }
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FloatType {
    type Err = String;

    /// Parses `f32` or PyTorch's `float32`, and so on.
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|float| [float.name(), float.torch_name()].contains(&name));
        found.ok_or_else(|| format!("expected f32, f16 or bf16, got `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_and_those_outside_the_range_of_f16_are_refused() {
        let values = vec![1.0, 0.1, -65504.0, 1e-7];
        let data = FloatType::F16.convert("w", values.clone()).unwrap();
        assert_eq!((data.dtype, data.num_elements()), (DType::F16, 4));
        let expected: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        assert_eq!(data.to_vec::<f16>().unwrap(), expected);
        let bytes: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(FloatType::F16.encode("w", &values).unwrap(), bytes);
        for large in [65505.0, -1e6, f32::INFINITY] {
            let encoded = FloatType::F16.encode("model.norm.weight", &[0.0, large]).map(drop);
            let converted = FloatType::F16.convert("model.norm.weight", vec![0.0, large]).map(drop);
            for error in [encoded.unwrap_err(), converted.unwrap_err()] {
                assert!(matches!(&error, ModelError::Overflow { tensor, .. } if tensor == "model.norm.weight"), "{error}");
            }
            assert!(FloatType::BF16.convert("w", vec![large]).is_ok() && FloatType::BF16.encode("w", &[large]).is_ok());
        }
    }

    #[test]
    fn bytes_are_read_unchanged() {
        let bytes: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        let data = FloatType::BF16.read(&bytes);
        assert_eq!((data.dtype, data.iter::<f32>().collect::<Vec<_>>()), (DType::BF16, vec![0.5, -3.0]));
    }

    #[test]
    fn names_are_parsed() {
        for float in FloatType::ALL {
            assert_eq!(float.name().parse(), Ok(float));
            assert_eq!(float.torch_name().parse(), Ok(float));
        }
        assert_eq!("f64".parse::<FloatType>().unwrap_err(), "expected f32, f16 or bf16, got `f64`");
    }
}
