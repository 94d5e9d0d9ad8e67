//! Named tensors on disk.

mod canonical;
mod mapped;
pub(crate) mod safetensors;

pub use self::canonical::{canonical, is_ignored};
pub(crate) use self::mapped::release;
pub use self::safetensors::SafetensorsFolder;

use std::path::PathBuf;

use ::safetensors::Dtype;
use burn::tensor::TensorData;

use crate::dtype::ComputeType;
use crate::error::{ModelError, Result};

/// Named tensors under their Hugging Face names, read one at a time.
///
/// Weights of linear layers are row-major `[out, in]`, as the checkpoints of transformers keep them.
pub trait Checkpoint: Send + Sync {
    /// All names.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor, if there is one of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The elements of a tensor as f32.
    ///
    /// # Errors
    /// When there is no such tensor, or its bytes can't be read.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>>;

    /// The elements in a dtype that models compute in, in a row: converted, or as the file has them where it has them so.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and [`ModelError::Overflow`] when an element is beyond the dtype.
    fn read(&self, name: &str, dtype: ComputeType) -> Result<TensorData> {
        dtype.convert(name, self.read_f32(name)?)
    }

    /// The dtype of a tensor of integers or booleans, such as a buffer of positions; `None` for floats.
    fn integer_dtype(&self, _name: &str) -> Option<Dtype> {
        None
    }

    /// The bytes of a tensor as they are stored, little-endian.
    ///
    /// # Errors
    /// When there is no such tensor, or the checkpoint stores it in no way that a safetensors file could.
    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        Err(ModelError::Misfit { problems: vec![format!("{name}: its bytes can't be read")] })
    }

    /// The files that it is read from.
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

    fn read(&self, name: &str, dtype: ComputeType) -> Result<TensorData> {
        (**self).read(name, dtype)
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        (**self).integer_dtype(name)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        (**self).read_bytes(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        (**self).files()
    }
}

/// Lists every tensor that is missing or has another shape than the model wants.
///
/// # Errors
/// [`ModelError::Misfit`] with all of them at once.
pub fn check_fit(checkpoint: &dyn Checkpoint, wanted: &[(String, Vec<usize>)]) -> Result<()> {
    let problems: Vec<String> = wanted
        .iter()
        .filter_map(|(name, shape)| match checkpoint.shape(name) {
            None => Some(format!("{name}: missing, expected {shape:?}")),
            Some(found) if &found != shape => Some(format!("{name}: expected {shape:?}, got {found:?}")),
            Some(_) => None,
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(ModelError::Misfit { problems }) }
}
