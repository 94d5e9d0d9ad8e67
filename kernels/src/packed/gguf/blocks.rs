//! Matrices in the blocks of a GGUF file.

use rayon::prelude::*;

use super::super::{Element, PackError};
use super::{GgmlType, half};

/// A matrix in the blocks of a GGUF file, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufBlocks {
    kind: GgmlType,
    dims: [usize; 2],
    bytes: Vec<u8>,
}

impl GgufBlocks {
    /// Quantises a row-major matrix, see [`GgmlType::quantize`].
    ///
    /// # Errors
    /// Those of [`GgmlType::quantize`].
    pub fn quantize<T: Element>(tensor: &str, values: &[T], dims: [usize; 2], kind: GgmlType) -> Result<Self, PackError> {
        Ok(Self { kind, dims, bytes: kind.quantize(tensor, values, dims)? })
    }

    /// Takes over what a file has.
    ///
    /// # Errors
    /// [`PackError::Group`] when blocks do not divide a row, [`PackError::Length`] when the bytes are not those of `dims`,
    /// [`PackError::Scale`] when a block's scale is not finite.
    pub fn new(tensor: &str, dims: [usize; 2], kind: GgmlType, bytes: Vec<u8>) -> Result<Self, PackError> {
        let tensor = || tensor.to_owned();
        let group = kind.block_elements();
        if !dims[1].is_multiple_of(group) {
            return Err(PackError::Group { tensor: tensor(), columns: dims[1], group });
        }
        let expected = (dims[1] / group).saturating_mul(dims[0]).saturating_mul(kind.block_bytes());
        if expected != bytes.len() {
            return Err(PackError::Length { tensor: tensor(), part: "the packed weight", expected, found: bytes.len() });
        }
        let scales = |block: &[u8]| kind.scales().iter().map(|at| half(block, *at)).find(|scale| !scale.is_finite());
        match bytes.par_chunks(kind.block_bytes()).with_min_len(1 << 12).find_map_first(scales) {
            Some(value) => Err(PackError::Scale { tensor: tensor(), part: "the packed weight", value }),
            None => Ok(Self { kind, dims, bytes }),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// The storage type.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// Its blocks.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements from `start` on, as many as `values` holds; whole blocks.
    pub(in super::super) fn dequantize_into(&self, start: usize, values: &mut [f32]) {
        let block = self.kind.block_elements();
        debug_assert!(start.is_multiple_of(block) && values.len().is_multiple_of(block));
        self.kind.dequantize_into(&self.bytes[start / block * self.kind.block_bytes()..], values);
    }
}
