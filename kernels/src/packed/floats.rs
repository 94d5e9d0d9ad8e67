//! Floats of the three dtypes that checkpoints have.

use burn::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Values in the dtype that a checkpoint keeps them in.
#[derive(Debug, Clone, PartialEq)]
pub enum Floats {
    /// 32 bits.
    F32(Vec<f32>),
    /// IEEE 16 bits.
    F16(Vec<f16>),
    /// The upper 16 bits of an f32.
    BF16(Vec<bf16>),
}

impl Floats {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::BF16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of them all.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => 4 * values.len(),
            Self::F16(_) | Self::BF16(_) => 2 * self.len(),
        }
    }

    /// Their dtype.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
        }
    }

    /// One of them.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => values[index].to_f32(),
            Self::BF16(values) => values[index].to_f32(),
        }
    }

    /// A value as this dtype holds it.
    pub fn round(&self, value: f32) -> f32 {
        match self {
            Self::F32(_) => value,
            Self::F16(_) => f16::from_f32(value).to_f32(),
            Self::BF16(_) => bf16::from_f32(value).to_f32(),
        }
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }

    /// Others in the same dtype, rounded to nearest even.
    #[must_use]
    pub fn alike(&self, values: Vec<f32>) -> Self {
        match self {
            Self::F32(_) => f32::floats(values),
            Self::F16(_) => f16::floats(values),
            Self::BF16(_) => bf16::floats(values),
        }
    }
}

/// A float of a dtype that weights come in.
pub trait Element: Copy + Send + Sync {
    /// As f32, exactly.
    fn value(self) -> f32;

    /// Values as f32, exactly: where they lie, or in `room`.
    fn widen<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32];

    /// f32 values in this dtype, rounded to nearest even.
    fn floats(values: Vec<f32>) -> Floats;
}

impl Element for f32 {
    fn value(self) -> f32 {
        self
    }

    fn widen<'a>(values: &'a [Self], _room: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }

    fn floats(values: Vec<f32>) -> Floats {
        Floats::F32(values)
    }
}

impl Element for f16 {
    fn value(self) -> f32 {
        self.to_f32()
    }

    fn widen<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(values.len(), 0.0);
        values.convert_to_f32_slice(room);
        room
    }

    fn floats(values: Vec<f32>) -> Floats {
        Floats::F16(values.into_iter().map(f16::from_f32).collect())
    }
}

impl Element for bf16 {
    fn value(self) -> f32 {
        self.to_f32()
    }

    fn widen<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(values.len(), 0.0);
        values.convert_to_f32_slice(room);
        room
    }

    fn floats(values: Vec<f32>) -> Floats {
        Floats::BF16(values.into_iter().map(bf16::from_f32).collect())
    }
}
