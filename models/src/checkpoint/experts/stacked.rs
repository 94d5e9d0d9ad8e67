//! The tensors of all experts, from those of each: as transformers stores models whose experts it never has apart.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::TensorData;
use burnish_kernels::packed::{Packed, PackedKind};
use safetensors::Dtype;

use super::{Place, Projection, SINKS};
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Stacking};
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;

/// A checkpoint with the experts of each layer in one tensor, and with sinks as transformers calls them.
pub struct Stacked<'a> {
    inner: &'a dyn Checkpoint,
    names: BTreeMap<String, Source>,
    experts: usize,
}

/// Where a tensor is read from.
#[derive(Debug, Clone)]
enum Source {
    /// From the tensor of that name.
    Renamed(String),
    /// From those of all experts, whose names begin so.
    Experts { start: String, place: Place },
}

impl<'a> Stacked<'a> {
    /// The checkpoint as transformers stores it; `None` where it stores each expert apart, or the model has none.
    pub fn of(inner: &'a dyn Checkpoint, config: &ModelConfig) -> Option<Self> {
        let experts = config.experts.as_ref().filter(|experts| experts.stacking == Stacking::Columns)?;
        let mut names = BTreeMap::new();
        for name in inner.names() {
            let (stored, source) = if let Some((start, place)) = Place::of(&name) {
                (place.stacked(start), Source::Experts { start: start.to_owned(), place: Place { expert: 0, ..place } })
            } else {
                let own = name.strip_suffix(".weight").filter(|own| own.ends_with(SINKS)).unwrap_or(&name);
                (own.to_owned(), Source::Renamed(name.clone()))
            };
            names.insert(stored, source);
        }
        Some(Self { inner, names, experts: experts.count })
    }

    fn source(&self, name: &str) -> Result<&Source> {
        self.names.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }

    /// The tensors of one expert that are parts of a stacked one.
    fn parts(start: &str, place: Place, expert: usize) -> Vec<String> {
        let kind = if place.is_bias { "bias" } else { "weight" };
        let projections: &[&str] =
            if place.projection == Projection::Down { &["down_proj"] } else { &["gate_proj", "up_proj"] };
        projections.iter().map(|projection| format!("{start}{expert}.{projection}.{kind}")).collect()
    }

    /// The elements of the experts' tensors, `[experts, in, out]`, or `[experts, out]` of biases; gate and up alternate.
    fn stacked(&self, start: &str, place: Place) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for expert in 0..self.experts {
            let names = Self::parts(start, place, expert);
            let parts: Vec<Vec<f32>> = names.iter().map(|name| self.inner.read_f32(name)).collect::<Result<_>>()?;
            let columns = if place.is_bias { 1 } else { self.columns(&names) };
            let rows = parts.iter().map(|part| part.len() / columns).min().unwrap_or_default();
            if values.is_empty() {
                values.reserve_exact(self.experts * parts.len() * rows * columns);
            }
            for column in 0..columns {
                for row in 0..rows {
                    values.extend(parts.iter().map(|part| part[row * columns + column]));
                }
            }
        }
        Ok(values)
    }

    /// Elements of a row of an expert's matrix.
    fn columns(&self, names: &[String]) -> usize {
        let shape = names.first().and_then(|name| self.inner.shape(name));
        shape.and_then(|shape| shape.last().copied()).unwrap_or(1).max(1)
    }
}

impl Checkpoint for Stacked<'_> {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.inner.shape(own),
            Source::Experts { start, place } => {
                let names = Self::parts(start, *place, 0);
                let shape = self.inner.shape(names.first()?)?;
                let outputs = shape[0] * names.len();
                Some([&[self.experts][..], &shape[1..], &[outputs]].concat())
            }
        }
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>> {
        match self.names.get(name) {
            Some(Source::Renamed(own)) => self.inner.read_rows(own, rows),
            _ => Ok(None),
        }
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.source(name)? {
            Source::Renamed(own) => self.inner.read_f32(own),
            Source::Experts { start, place } => self.stacked(start, *place),
        }
    }

    fn read(&self, name: &str, dtype: FloatType) -> Result<TensorData> {
        match self.source(name)? {
            Source::Renamed(own) => self.inner.read(own, dtype),
            Source::Experts { .. } => dtype.convert(name, self.read_f32(name)?),
        }
    }

    fn packed_kind(&self, name: &str) -> Option<PackedKind> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.inner.packed_kind(own),
            Source::Experts { .. } => None,
        }
    }

    fn read_packed(&self, name: &str) -> Result<Option<Packed>> {
        match self.source(name)? {
            Source::Renamed(own) => self.inner.read_packed(own),
            Source::Experts { .. } => Ok(None),
        }
    }

    fn float_type(&self, name: &str) -> Option<FloatType> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.inner.float_type(own),
            Source::Experts { .. } => None,
        }
    }

    fn is_float8(&self, name: &str) -> bool {
        matches!(self.names.get(name), Some(Source::Renamed(own)) if self.inner.is_float8(own))
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.inner.integer_dtype(own),
            Source::Experts { .. } => None,
        }
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        match self.source(name)? {
            Source::Renamed(own) => self.inner.read_bytes(own),
            Source::Experts { .. } => Err(ModelError::Mismatch {
                problems: vec![format!("{name}: made of several tensors, without bytes of its own")],
            }),
        }
    }

    fn file_of(&self, name: &str) -> Option<PathBuf> {
        match self.names.get(name)? {
            Source::Renamed(own) => self.inner.file_of(own),
            Source::Experts { start, place } => self.inner.file_of(Self::parts(start, *place, 0).first()?),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let files: BTreeSet<PathBuf> = self.inner.files().into_iter().collect();
        files.into_iter().collect()
    }
}
