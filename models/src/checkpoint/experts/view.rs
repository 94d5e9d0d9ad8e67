//! A checkpoint over another one, some of whose tensors are made from those of the other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use safetensors::Dtype;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// Where a tensor of a view is read from.
#[derive(Debug, Clone)]
pub enum Source<K> {
    /// From the tensor of that name.
    Renamed(String),
    /// From one or several others.
    Made(K),
}

/// Makes tensors from those of another checkpoint.
pub trait Make: Send + Sync {
    /// What says how a tensor is made.
    type Key: Send + Sync;

    /// The other checkpoint.
    fn inner(&self) -> &dyn Checkpoint;

    /// The shape; `None` if the other checkpoint does not have what is needed.
    fn shape(&self, key: &Self::Key) -> Option<Vec<usize>>;

    /// The elements; `name` is for errors.
    fn floats(&self, name: &str, key: &Self::Key) -> Result<Vec<f32>>;

    /// As [`Checkpoint::packed_kind`].
    fn packed_kind(&self, _key: &Self::Key) -> Option<PackedKind> {
        None
    }

    /// As [`Checkpoint::read_packed`].
    fn packed(&self, _name: &str, _key: &Self::Key) -> Result<Option<Packed>> {
        Ok(None)
    }

    /// As [`Checkpoint::float_type`].
    fn float_type(&self, _key: &Self::Key) -> Option<FloatType> {
        None
    }

    /// As [`Checkpoint::file_of`].
    fn file_of(&self, key: &Self::Key) -> Option<PathBuf>;
}

/// The checkpoint: tensors by name, and what makes those that the other one does not have.
pub struct View<M: Make> {
    pub(super) names: BTreeMap<String, Source<M::Key>>,
    pub(super) make: M,
}

impl<M: Make> View<M> {
    fn source(&self, name: &str) -> Result<&Source<M::Key>> {
        self.names.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }
}

impl<M: Make> Checkpoint for View<M> {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.make.inner().shape(own),
            Source::Made(key) => self.make.shape(key),
        }
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.source(name)? {
            Source::Renamed(own) => self.make.inner().read_f32(own),
            Source::Made(key) => self.make.floats(name, key),
        }
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        match self.names.get(name) {
            Some(Source::Renamed(own)) => self.make.inner().read_rows(own, rows),
            _ => Ok(None),
        }
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        match self.source(name)? {
            Source::Renamed(own) => self.make.inner().read(own, dtype),
            Source::Made(_) => dtype.convert(name, self.read_f32(name)?),
        }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.make.inner().packed_kind(own),
            Source::Made(key) => self.make.packed_kind(key),
        }
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        match self.source(name)? {
            Source::Renamed(own) => self.make.inner().read_packed(own),
            Source::Made(key) => self.make.packed(name, key),
        }
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.make.inner().float_type(own),
            Source::Made(key) => self.make.float_type(key),
        }
    }

    fn is_float8(&self, name: &str) -> bool {
        matches!(self.names.get(name), Some(Source::Renamed(own)) if self.make.inner().is_float8(own))
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.make.inner().integer_dtype(own),
            Source::Made(_) => None,
        }
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        match self.source(name)? {
            Source::Renamed(own) => self.make.inner().read_bytes(own),
            Source::Made(_) => Err(ModelError::Mismatch {
                problems: vec![format!("{name}: made from other tensors, without bytes of its own")],
            }),
        }
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.make.inner().file_of(own),
            Source::Made(key) => self.make.file_of(key),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.make.inner().files()
    }
}
