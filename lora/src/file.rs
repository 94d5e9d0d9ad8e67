//! The tensors of an adapter file under PEFT's names and in PEFT's shapes, whatever its format.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burnish_models::error::Result;
use burnish_models::gguf::halves_apart;
use burnish_models::{Checkpoint, ModelError};

/// How a tensor lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As in PEFT.
    Same,
    /// With rows and columns exchanged.
    Transposed,
    /// With the halves of each head interleaved.
    Interleaved {
        /// The number of elements of a head.
        head_dim: usize,
    },
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    /// Its name in the file.
    pub(crate) name: String,
    pub(crate) order: Order,
}

/// The tensors of an adapter file.
pub(crate) struct AdapterFile {
    inner: Box<dyn Checkpoint>,
    /// By their names in PEFT.
    tensors: BTreeMap<String, StoredTensor>,
}

impl AdapterFile {
    /// A file with these tensors, by their names in PEFT.
    pub(crate) fn new(inner: Box<dyn Checkpoint>, tensors: BTreeMap<String, StoredTensor>) -> Self {
        Self { inner, tensors }
    }

    /// A file of PEFT.
    pub(crate) fn plain(inner: Box<dyn Checkpoint>) -> Self {
        let names = inner.names().into_iter();
        let tensors = names.map(|name| (name.clone(), StoredTensor { name, order: Order::Same })).collect();
        Self { inner, tensors }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn stored(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }

    /// The shape in PEFT; empty if there is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let Some(stored) = self.tensors.get(name) else { return Vec::new() };
        let mut shape = self.inner.shape(&stored.name).unwrap_or_default();
        if stored.order == Order::Transposed {
            shape.reverse();
        }
        shape
    }

    /// The elements in PEFT's order.
    pub(crate) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let values = self.inner.read_f32(&stored.name)?;
        let rows = self.inner.shape(&stored.name).and_then(|shape| shape.first().copied()).unwrap_or_default();
        match stored.order {
            Order::Same => Ok(values),
            Order::Transposed => Ok(transposed(&values, rows)),
            Order::Interleaved { head_dim } => {
                let heads = rows.checked_div(head_dim).filter(|heads| heads * head_dim == rows);
                heads.and_then(|heads| halves_apart(&values, rows, heads)).ok_or_else(|| ModelError::Mismatch {
                    problems: vec![format!("{}: expected rows for heads of {head_dim}, got {rows} rows", stored.name)],
                })
            }
        }
    }

    /// Whether two tensors have the same bytes.
    pub(crate) fn is_same(&self, one: &str, other: &str) -> Result<bool> {
        let bytes = |name: &str| self.inner.read_bytes(&self.stored(name)?.name);
        Ok(bytes(one)? == bytes(other)?)
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }
}

/// The transpose of a row-major matrix.
pub fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len().checked_div(rows).unwrap_or_default();
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_transposed() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert!(transposed(&[], 0).is_empty());
    }
}
