//! A moment in eight bits.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorData, TensorMetadata};

use crate::pack::packed_elements;
use crate::packed::codebook::{Codebook, DYNAMIC_BLOCK};
use crate::primitive::{cast, raw, typed};

/// Codes of a word.
pub(super) const CODES: usize = 4;

/// A moment in eight bits, in blocks of [`DYNAMIC_BLOCK`] elements of the flattened parameter.
///
/// The first moment has codes of the map [`SIGNED`](crate::packed::codebook::SIGNED), the second of
/// [`UNSIGNED`](crate::packed::codebook::UNSIGNED).
#[derive(Debug, Clone)]
pub struct Moment8bit<B: Backend> {
    /// Four codes a word, the first in the lowest bits: `[⌈elements / 4⌉]`.
    pub words: IntTensor<B>,
    /// The largest magnitude of each block: `[⌈elements / 256⌉]`, f32.
    pub absmax: FloatTensor<B>,
}

impl<B: Backend> Moment8bit<B> {
    /// All zeros, as before the first update.
    pub fn zeros(elements: usize, device: &B::Device) -> Self {
        let (words, blocks) = (elements.div_ceil(CODES), elements.div_ceil(DYNAMIC_BLOCK));
        let words = Tensor::<B, 1, Int>::zeros([words], device);
        let absmax = Tensor::<B, 1>::zeros([blocks], (device, DType::F32));
        Self { words: words.into_primitive(), absmax: raw(absmax) }
    }

    /// From the host, as [`Moment8bit::to_host`] gave it.
    pub fn new(words: Vec<i32>, absmax: Vec<f32>, device: &B::Device) -> Self {
        let (count, blocks) = (words.len(), absmax.len());
        let words = Tensor::<B, 1, Int>::from_data(TensorData::new(words, [count]), device);
        let absmax = Tensor::<B, 1>::from_data(TensorData::new(absmax, [blocks]), (device, DType::F32));
        Self { words: words.into_primitive(), absmax: raw(absmax) }
    }

    /// Words and scales, to the bit.
    pub fn to_host(&self) -> (Vec<i32>, Vec<f32>) {
        let words = Tensor::<B, 1, Int>::from_primitive(self.words.clone()).into_data();
        (words.iter::<i64>().map(|word| word as i32).collect(), to_host::<B>(self.absmax.clone()))
    }

    /// From the codes of a parameter and the scales of their blocks, for a [`pack`](crate::pack()): filled up with zeros.
    pub fn from_codes(map: &Codebook, mut codes: Vec<u8>, mut absmax: Vec<f32>, device: &B::Device) -> Self {
        let elements = packed_elements(codes.len());
        codes.resize(elements, map.nearest(0.0));
        absmax.resize(elements / DYNAMIC_BLOCK, 0.0);
        let words = codes.as_chunks().0.iter().map(|codes| i32::from_le_bytes(*codes)).collect();
        Self::new(words, absmax, device)
    }

    /// The codes of a parameter of so many elements.
    pub fn codes(&self, elements: usize) -> Vec<u8> {
        let words = Tensor::<B, 1, Int>::from_primitive(self.words.clone()).into_data();
        let mut codes: Vec<u8> = words.iter::<i64>().flat_map(|word| (word as i32).to_le_bytes()).collect();
        codes.truncate(elements);
        codes
    }

    /// The scales of so many blocks.
    pub fn scales(&self, blocks: usize) -> Vec<f32> {
        let mut scales = to_host::<B>(self.absmax.clone());
        scales.truncate(blocks);
        scales
    }

    /// The moments of several parameters one after the other, as [`pack`](crate::pack()) concatenates the parameters. Each has whole
    /// blocks, so no block has elements of two parameters.
    ///
    /// # Panics
    /// If `moments` is empty.
    pub fn concatenated(mut moments: Vec<Self>) -> Self {
        if moments.len() == 1 {
            return moments.remove(0);
        }
        let (words, absmax) =
            moments.into_iter().map(|Self { words, absmax }| (Tensor::from_primitive(words), typed(absmax))).unzip();
        let words = Tensor::<B, 1, Int>::cat(words, 0);
        Self { words: words.into_primitive(), absmax: raw(Tensor::<B, 1>::cat(absmax, 0)) }
    }

    /// The inverse of [`Moment8bit::concatenated`], for parameters of so many elements.
    pub fn split(&self, elements: impl IntoIterator<Item = usize>) -> Vec<Self> {
        let mut start = 0;
        let part = |elements: usize| {
            let end = start + packed_elements(elements);
            let words = Tensor::<B, 1, Int>::from_primitive(self.words.clone()).slice(start / CODES..end / CODES);
            let absmax = typed::<B, 1>(self.absmax.clone()).slice(start / DYNAMIC_BLOCK..end / DYNAMIC_BLOCK);
            start = end;
            Self { words: words.into_primitive(), absmax: raw(absmax) }
        };
        elements.into_iter().map(part).collect()
    }
}

pub(super) fn to_host<B: Backend>(tensor: FloatTensor<B>) -> Vec<f32> {
    let flat = [tensor.shape().num_elements()];
    typed::<B, 1>(B::float_reshape(cast::<B>(tensor, DType::F32), flat.into())).into_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::packed::codebook::SIGNED;

    #[test]
    fn parts_come_back_and_no_block_has_two_parameters() {
        let device = Default::default();
        let parts = [(5usize, 3u8), (256, 9), (300, 200)].map(|(elements, code)| {
            let absmax = (0..elements.div_ceil(DYNAMIC_BLOCK)).map(|block| block as f32 + f32::from(code)).collect();
            (elements, vec![code; elements], absmax)
        });
        let moments =
            parts.clone().map(|(_, codes, absmax)| Moment8bit::<Flex>::from_codes(&SIGNED, codes, absmax, &device));
        let all = Moment8bit::concatenated(moments.to_vec());
        let (words, absmax) = all.to_host();
        assert_eq!((words.len(), absmax.len()), (4 * 256 / CODES, 4));
        // What fills up is zero, also where the block's scale is not.
        assert_eq!(SIGNED.values()[(words[2] & 255) as usize].to_bits(), 0.0f32.to_bits());
        for ((elements, codes, absmax), part) in parts.iter().zip(all.split(parts.clone().map(|(elements, ..)| elements))) {
            assert_eq!((part.codes(*elements), part.scales(absmax.len())), (codes.clone(), absmax.clone()));
        }
    }
}
