//! What is known of a packed matrix before it is read.

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use super::nf4::Absmax;
use super::planes::{Planes, Scales, planes_of};
use super::{Affine, Element, GgmlType, GgufBlocks, Nf4, PackError, Packed};

/// A format with its settings: with a shape, it says how devices hold a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedKind {
    /// See [`super::Nf4`].
    Nf4 {
        /// Elements that share a scale.
        block: usize,
        /// Whether scales are quantised again.
        double: bool,
    },
    /// See [`super::Affine`].
    Affine {
        /// Bits of an integer.
        bits: usize,
        /// Elements that share a scale and a bias.
        group: usize,
        /// Of scales and biases; f32 where they differ.
        scales: DType,
    },
    /// See [`super::GgufBlocks`].
    Gguf(GgmlType),
}

impl PackedKind {
    /// The word that users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 { .. } => "nf4",
            Self::Affine { bits: 4, .. } => "int4",
            Self::Affine { .. } => "int8",
            Self::Gguf(kind) => kind.name(),
        }
    }

    /// How devices hold a matrix of that shape.
    ///
    /// # Errors
    /// [`PackError::Group`] where blocks or groups do not divide a row, [`PackError::Planes`] for types of GGUF that stay on the host.
    pub fn planes(self, tensor: &str, dims: [usize; 2]) -> Result<Planes, PackError> {
        let planes = |low: usize, group, scales| {
            if dims[1].is_multiple_of(group) {
                return Ok(Planes { dims, low, high: 0, group, scales });
            }
            Err(PackError::Group { tensor: tensor.to_owned(), columns: dims[1], group })
        };
        match self {
            Self::Nf4 { block, double: false } => planes(4, block, Scales::Table),
            Self::Nf4 { block, double: true } => planes(4, block, Scales::DoubleTable),
            Self::Affine { bits, group, scales } => {
                let pair = match scales {
                    DType::F16 => Scales::HalfPair,
                    DType::BF16 => Scales::BrainPair,
                    _ => Scales::FloatPair,
                };
                planes(bits, group, pair)
            }
            Self::Gguf(kind) => {
                planes_of(kind, dims).ok_or_else(|| PackError::Planes { tensor: tensor.to_owned(), format: kind.name() })
            }
        }
    }

    /// Quantises a row-major matrix, whose dtype decides that of the scales of [`Affine`].
    ///
    /// # Errors
    /// Those of [`Nf4::quantize`], [`Affine::quantize`] and [`GgufBlocks::quantize`].
    pub fn quantize(self, tensor: &str, values: &TensorData, dims: [usize; 2]) -> Result<Packed, PackError> {
        match values.dtype {
            DType::F16 => self.quantize_elements(tensor, values.as_slice::<f16>().unwrap_or_default(), dims),
            DType::BF16 => self.quantize_elements(tensor, values.as_slice::<bf16>().unwrap_or_default(), dims),
            _ => self.quantize_elements(tensor, values.as_slice::<f32>().unwrap_or_default(), dims),
        }
    }

    fn quantize_elements<T: Element>(self, tensor: &str, values: &[T], dims: [usize; 2]) -> Result<Packed, PackError> {
        match self {
            Self::Nf4 { double, .. } => Nf4::quantize(tensor, values, dims, double).map(Packed::Nf4),
            Self::Affine { bits, group, .. } => Affine::quantize(tensor, values, dims, bits, group).map(Packed::Affine),
            Self::Gguf(kind) => GgufBlocks::quantize(tensor, values, dims, kind).map(Packed::Gguf),
        }
    }
}

impl Packed {
    /// Its format.
    pub fn kind(&self) -> PackedKind {
        match self {
            Self::Nf4(matrix) => {
                PackedKind::Nf4 { block: matrix.block(), double: matches!(matrix.absmax(), Absmax::Double(_)) }
            }
            Self::Affine(matrix) => {
                PackedKind::Affine { bits: matrix.bits(), group: matrix.group(), scales: scales_of(matrix) }
            }
            Self::Gguf(matrix) => PackedKind::Gguf(matrix.kind()),
        }
    }

    /// The word that users know.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// Scales and biases of a folder may differ in dtype; then both widen.
fn scales_of(matrix: &Affine) -> DType {
    let (scales, biases) = (matrix.scales().dtype(), matrix.biases().dtype());
    if scales == biases { scales } else { DType::F32 }
}
