//! Named tensors on disk.

mod canonical;
mod element;
mod experts;
mod folder;
mod fp8;
pub(crate) mod index;
mod mapped;
pub(crate) mod names;
mod packed;
mod pytorch;
pub(crate) mod safetensors;

pub use self::canonical::{canonical, in_text_model, is_ignored, is_of_text_part};
pub use self::experts::{Stacked, experts_apart};
pub use self::folder::{is_weights, open_files, open_folder};
pub(crate) use self::mapped::{open as open_file, release};
pub use self::pytorch::PytorchFiles;
pub use self::safetensors::SafetensorsFolder;

use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};

use serde_json::Value;

use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// Tensors on disk under their Hugging Face names, read one at a time.
///
/// Shapes are PyTorch's: the slowest dimension first, and `[out, in]` for the weight of a linear layer.
pub trait Checkpoint: Send + Sync {
    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor; `None` if there is no tensor of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The elements of a tensor as f32, in row-major order.
    ///
    /// # Errors
    /// If there is no tensor of that name, it is not a tensor of floats, or its bytes can't be read.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>>;

    /// The elements of some rows of a tensor as f32; a row is a stretch of its fastest dimension. `None` where only whole tensors can be
    /// read.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and if there are no such rows.
    fn read_rows(&self, _name: &str, _rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// The elements of a tensor in the given type, in row-major order and with one dimension. Elements that are stored in that
    /// type are not converted.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and [`ModelError::Overflow`] if an element is outside the range of the type.
    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        dtype.convert(name, self.read_f32(name)?)
    }

    /// The format of the blocks that a matrix is kept in; `None` where the checkpoint keeps floats.
    fn packed_kind(&self, _name: &str) -> Option<PackedKind> {
        None
    }

    /// A matrix in the blocks that the checkpoint keeps it in; `None` where it keeps floats. [`Checkpoint::read_f32`] gives the weights
    /// of those blocks.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and when the blocks are not those of the shape or have scales that are not finite.
    fn read_packed(&self, _name: &str) -> Result<Option<Packed>> {
        Ok(None)
    }

    /// The type of floats that a tensor is stored in, where [`Checkpoint::read`] gives it unchanged; `None` if it is another, or packed.
    fn float_type(&self, _name: &str) -> Option<FloatType> {
        None
    }

    /// Whether a tensor is stored in floats of 8 bits, whose scales lie elsewhere.
    fn is_float8(&self, _name: &str) -> bool {
        false
    }

    /// The type of a tensor of integers or booleans, such as a buffer of positions; `None` for floats.
    fn integer_dtype(&self, _name: &str) -> Option<Dtype> {
        None
    }

    /// The bytes of a tensor as they are stored, little-endian.
    ///
    /// # Errors
    /// If there is no tensor of that name, or it is stored in a way that safetensors does not know.
    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        Err(ModelError::Mismatch { problems: vec![format!("{name}: its bytes can't be read as they are stored")] })
    }

    /// The file that a tensor is read from.
    fn file_of(&self, _name: &str) -> Option<PathBuf> {
        None
    }

    /// The files that the tensors are read from.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl<C: Checkpoint + ?Sized> Checkpoint for Box<C> {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        (**self).shape(name)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        (**self).read_f32(name)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        (**self).read_rows(name, rows)
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        (**self).read(name, dtype)
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        (**self).packed_kind(name)
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        (**self).read_packed(name)
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        (**self).float_type(name)
    }

    fn is_float8(&self, name: &str) -> bool {
        (**self).is_float8(name)
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        (**self).integer_dtype(name)
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        (**self).file_of(name)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        (**self).read_bytes(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        (**self).files()
    }
}

/// The checkpoint with each quantised weight under its own name and shape, and without the parts that it consists of: NF4 of
/// bitsandbytes, 4 and 8 bits of MLX, and 8-bit floats. Itself where it has none of these.
///
/// # Errors
/// [`ModelError::Mismatch`] with every quantised weight that lacks a part or has one of another shape, and
/// [`ModelError::Unsupported`] if there are 8-bit floats without a method that is read.
pub fn quantised_folder(folder: &Path, inner: Box<dyn Checkpoint>, config: &Value) -> Result<Box<dyn Checkpoint>> {
    fp8::fp8_folder(folder, packed::packed_folder(folder, inner, config)?, config)
}

/// Whether a tensor is part of a quantised weight that [`quantised_folder`] reads.
pub(crate) fn is_read(config: &Value, name: &str) -> bool {
    packed::is_read(config, name) || fp8::is_read(config, name) || experts::is_read(config, name)
}

/// Elements that [`for_rows`] reads at a time, unless a row has more.
const SLAB: usize = 1 << 23;

/// Calls `each` with the elements of a tensor as f32, in whole rows, a few at a time where the checkpoint can read these.
///
/// # Errors
/// As [`Checkpoint::read_f32`], and the first error of `each`.
pub fn for_rows<E: From<ModelError>>(
    checkpoint: &dyn Checkpoint,
    name: &str,
    mut each: impl FnMut(&[f32]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let shape = checkpoint.shape(name).unwrap_or_default();
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let rows = shape.iter().product::<usize>() / columns;
    let step = (SLAB / columns).max(1);
    if rows > step {
        let mut first = 0;
        while let Some(values) = checkpoint.read_rows(name, first..rows.min(first + step))? {
            each(&values)?;
            first += step;
            if first >= rows {
                return Ok(());
            }
        }
    }
    each(&checkpoint.read_f32(name)?)
}

/// Checks that the checkpoint has every expected tensor, with its shape.
///
/// # Errors
/// [`ModelError::Mismatch`] lists every tensor that is missing or has another shape.
pub fn check_shapes(checkpoint: &dyn Checkpoint, expected: &[(String, Vec<usize>)]) -> Result<()> {
    let problems: Vec<String> = expected
        .iter()
        .filter_map(|(name, shape)| match checkpoint.shape(name) {
            None => Some(format!("{name}: missing, expected {shape:?}")),
            Some(found) if &found != shape => Some(format!("{name}: expected {shape:?}, got {found:?}")),
            Some(_) => None,
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(ModelError::Mismatch { problems }) }
}
