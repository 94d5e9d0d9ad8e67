//! The dtype that a model computes in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{ModelError, Result};

/// The dtype of frozen weights and of activations. What trains, its moments and losses are f32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeType {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE 16 bits: at most 65504.
    F16,
    /// The upper 16 bits of an f32.
    BF16,
}

impl ComputeType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// The word that users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// Elements of the tensor of that name in this dtype, in a row, rounded to nearest even.
    ///
    /// # Errors
    /// [`ModelError::Overflow`] when an element is beyond f16.
    pub fn convert(self, name: &str, values: Vec<f32>) -> Result<TensorData> {
        let length = values.len();
        Ok(match self {
            Self::F32 => TensorData::new(values, [length]),
            Self::F16 => {
                let most = f16::MAX.to_f32();
                if let Some(value) = values.iter().find(|value| value.abs() > most) {
                    return Err(ModelError::Overflow { tensor: name.to_owned(), value: *value });
                }
                let mut halves = vec![f16::ZERO; length];
                halves.convert_from_f32_slice(&values);
                TensorData::new(halves, [length])
            }
            Self::BF16 => {
                let mut halves = vec![bf16::ZERO; length];
                halves.convert_from_f32_slice(&values);
                TensorData::new(halves, [length])
            }
        })
    }

    /// Little-endian bytes of elements of this dtype, in a row.
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
}

impl From<ComputeType> for DType {
    fn from(dtype: ComputeType) -> Self {
        match dtype {
            ComputeType::F32 => Self::F32,
            ComputeType::F16 => Self::F16,
            ComputeType::BF16 => Self::BF16,
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ComputeType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of f32, f16, bf16"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_and_what_f16_does_not_hold_is_refused() {
        let values = vec![1.0, 0.1, -65504.0, 1e-7];
        let data = ComputeType::F16.convert("w", values.clone()).unwrap();
        assert_eq!((data.dtype, data.num_elements()), (DType::F16, 4));
        let expected: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        assert_eq!(data.to_vec::<f16>().unwrap(), expected);
        for beyond in [65505.0, -1e6, f32::INFINITY] {
            let error = ComputeType::F16.convert("model.norm.weight", vec![0.0, beyond]).unwrap_err();
            assert!(matches!(&error, ModelError::Overflow { tensor, .. } if tensor == "model.norm.weight"), "{error}");
            assert!(ComputeType::BF16.convert("w", vec![beyond]).is_ok());
        }
    }

    #[test]
    fn bytes_are_read_as_they_are() {
        let bytes: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        let data = ComputeType::BF16.read(&bytes);
        assert_eq!((data.dtype, data.iter::<f32>().collect::<Vec<_>>()), (DType::BF16, vec![0.5, -3.0]));
    }

    #[test]
    fn names_go_there_and_back() {
        for dtype in ComputeType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        assert!("f64".parse::<ComputeType>().is_err());
    }
}
