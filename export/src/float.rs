//! Float storage.

use half::{bf16, f16};

use crate::error::{ExportError, Result};

/// How floats are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// IEEE 16 bits.
    F16,
    /// The upper 16 bits of an f32.
    #[default]
    BF16,
}

impl FloatType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// The name in safetensors headers.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// Little-endian bytes, rounded to nearest even.
    ///
    /// # Errors
    /// [`ExportError::Overflow`] when an element is beyond f16.
    pub fn encode(self, tensor: &str, values: &[f32]) -> Result<Vec<u8>> {
        Ok(match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            Self::F16 => {
                let mut bytes = Vec::with_capacity(values.len() * 2);
                for value in values {
                    let half = f16::from_f32(*value);
                    if half.is_infinite() && value.is_finite() {
                        return Err(ExportError::Overflow { tensor: tensor.to_owned(), value: *value });
                    }
                    bytes.extend(half.to_le_bytes());
                }
                bytes
            }
        })
    }
}

impl std::str::FromStr for FloatType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            other => Err(format!("`{other}` is none of f32, f16, bf16")),
        }
    }
}
