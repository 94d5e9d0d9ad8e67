//! A packed matrix on a device.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{PackError, Packed, Planes};
use crate::primitive::{cast, raw};

/// A frozen matrix `[out, in]` in planes of words. It has no gradient, and products dequantise it part by part.
#[derive(Debug, Clone)]
pub struct PackedTensor<B: Backend> {
    /// Shape, and where the parts lie.
    pub planes: Planes,
    /// The bits of [`Planes::words`] words, `[words]`.
    pub words: IntTensor<B>,
}

impl<B: Backend> PackedTensor<B> {
    /// Brings a matrix to a device.
    ///
    /// # Errors
    /// Those of [`Packed::to_planes`].
    pub fn new(tensor: &str, matrix: &Packed, device: &B::Device) -> Result<Self, PackError> {
        let (planes, words) = matrix.to_planes(tensor)?;
        let count = words.len();
        let data = TensorData::new(words.into_iter().map(u32::cast_signed).collect::<Vec<_>>(), [count]);
        Ok(Self { planes, words: Tensor::<B, 1, Int>::from_data(data, device).into_primitive() })
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.planes.dims
    }

    /// The words on the host.
    pub fn to_words(&self) -> Vec<u32> {
        let words = Tensor::<B, 1, Int>::from_primitive(self.words.clone()).into_data();
        words.iter::<i64>().map(|word| word as u32).collect()
    }

    /// All of it as a dense tensor, by way of the host: for backends that have no kernel for it, one matrix at a time.
    pub fn to_dense(&self, dtype: DType) -> FloatTensor<B> {
        let device = B::int_device(&self.words);
        let data = TensorData::new(self.planes.dequantize(&self.to_words()), self.dims());
        cast::<B>(raw(Tensor::<B, 2>::from_data(data, (&device, DType::F32))), dtype)
    }
}
