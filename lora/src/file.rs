//! The tensors of an adapter file under PEFT's names and in PEFT's shapes, whatever its format.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burnish_models::error::Result;
use burnish_models::gguf::halves_apart;
use burnish_models::part::StackedParameter;
use burnish_models::{Checkpoint, ModelError};

/// What reading an adapter needs to know of its model besides the shapes of its weights.
pub(crate) struct ModelLayout {
    /// The number of elements of a head.
    pub(crate) head_dim: usize,
    /// The parameters that hold its experts.
    pub(crate) parameters: Vec<Arc<StackedParameter>>,
}

impl ModelLayout {
    pub(crate) fn new(head_dim: usize, parameters: impl IntoIterator<Item = StackedParameter>) -> Self {
        Self { head_dim, parameters: parameters.into_iter().map(Arc::new).collect() }
    }
}

/// How a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// One matrix of several.
    One {
        /// Which.
        index: usize,
    },
    /// The `A` of one expert, in that of a parameter.
    ParameterA { parameter: Arc<StackedParameter>, expert: usize },
    /// The `B` of one part of an expert, in that of a parameter.
    ParameterB { parameter: Arc<StackedParameter>, expert: usize, part: usize },
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
    /// By their names in PEFT; the factors of experts as those of linear layers.
    tensors: BTreeMap<String, StoredTensor>,
    /// The names in the file of the factors of parameters, by the names of those.
    parameters: BTreeMap<String, [String; 2]>,
    /// Tensors that were read to take parts of them.
    kept: Mutex<BTreeMap<String, Arc<Vec<f32>>>>,
}

/// How many tensors are kept: the factors of the experts of one layer.
const KEPT: usize = 6;

impl AdapterFile {
    /// A file with these tensors, by their names in PEFT.
    pub(crate) fn new(inner: Box<dyn Checkpoint>, tensors: BTreeMap<String, StoredTensor>) -> Self {
        Self { inner, tensors, parameters: BTreeMap::new(), kept: Mutex::default() }
    }

    /// A file of PEFT.
    pub(crate) fn plain(inner: Box<dyn Checkpoint>) -> Self {
        let names = inner.names().into_iter();
        let tensors = names.map(|name| (name.clone(), StoredTensor { name, order: Order::Same })).collect();
        Self::new(inner, tensors)
    }

    /// Reads two tensors as the factors of a parameter: instead of them there are those of each of its matrices, whose names `name`
    /// returns from the matrix and the index of the factor.
    pub(crate) fn take_apart(
        &mut self,
        parameter: &Arc<StackedParameter>,
        factors: [&str; 2],
        name: impl Fn(&str, usize) -> String,
    ) {
        let Some(stored) = factors.map(|factor| self.tensors.remove(factor)).into_iter().collect::<Option<Vec<_>>>() else {
            return;
        };
        for expert in 0..parameter.experts {
            for (part, own) in parameter.parts.iter().enumerate() {
                let matrix = parameter.matrix_name(own, expert);
                let parameter = || parameter.clone();
                let orders = [
                    Order::ParameterA { parameter: parameter(), expert },
                    Order::ParameterB { parameter: parameter(), expert, part },
                ];
                for (index, order) in orders.into_iter().enumerate() {
                    self.tensors.insert(name(&matrix, index), StoredTensor { name: stored[index].name.clone(), order });
                }
            }
        }
        let names = [stored[0].name.clone(), stored[1].name.clone()];
        self.parameters.insert(parameter.name(), names);
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The names in the file of the factors of a parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&[String; 2]> {
        self.parameters.get(name)
    }

    /// The parameter that a tensor is taken from.
    pub(crate) fn parameter_of(&self, name: &str) -> Option<&Arc<StackedParameter>> {
        match &self.tensors.get(name)?.order {
            Order::ParameterA { parameter, .. } | Order::ParameterB { parameter, .. } => Some(parameter),
            Order::Same | Order::Transposed | Order::Interleaved { .. } | Order::One { .. } => None,
        }
    }

    fn stored(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }

    /// The shape in the file; empty if there is no such tensor.
    pub(crate) fn stored_shape(&self, stored: &str) -> Vec<usize> {
        self.inner.shape(stored).unwrap_or_default()
    }

    /// The shape in PEFT; empty if there is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let Some(stored) = self.tensors.get(name) else { return Vec::new() };
        let mut shape = self.stored_shape(&stored.name);
        match (&stored.order, &mut shape[..]) {
            (Order::Transposed, _) => shape.reverse(),
            (Order::One { .. }, [_, rows, columns]) => shape = vec![*rows, *columns],
            // One that does not fit is reported as it is.
            (Order::ParameterA { parameter, .. }, [rows, _]) if rows.is_multiple_of(parameter.experts) => {
                *rows /= parameter.experts;
            }
            (Order::ParameterB { parameter, .. }, [rows, columns])
                if columns.is_multiple_of(parameter.experts) && *rows == parameter.outputs =>
            {
                *rows = parameter.matrix_dims()[0];
                *columns /= parameter.experts;
            }
            _ => {}
        }
        shape
    }

    /// The elements in PEFT's order.
    pub(crate) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let whole = || self.inner.read_f32(&stored.name);
        let shape = self.stored_shape(&stored.name);
        let rows = shape.first().copied().unwrap_or_default();
        let wrong = |expected: String| ModelError::Mismatch {
            problems: vec![format!("{}: expected {expected}, got {shape:?}", stored.name)],
        };
        match &stored.order {
            Order::Same => whole(),
            Order::Transposed => Ok(transposed(&whole()?, rows)),
            Order::Interleaved { head_dim } => {
                let heads = rows.checked_div(*head_dim).filter(|heads| heads * head_dim == rows);
                let values = whole()?;
                let found = heads.and_then(|heads| halves_apart(&values, rows, heads));
                found.ok_or_else(|| wrong(format!("rows for heads of {head_dim}")))
            }
            Order::One { index } => {
                let values = self.read_stored(&stored.name)?;
                let size = values.len().checked_div(rows).unwrap_or_default();
                let own = values.get(index * size..(index + 1) * size);
                own.map(<[f32]>::to_vec).ok_or_else(|| wrong(format!("at least {} matrices", index + 1)))
            }
            Order::ParameterA { parameter, expert } => {
                let values = self.read_stored(&stored.name)?;
                let size = values.len() / parameter.experts;
                let own = values.get(expert * size..(expert + 1) * size);
                own.map(<[f32]>::to_vec).ok_or_else(|| wrong(format!("the rows of {} experts", parameter.experts)))
            }
            Order::ParameterB { parameter, expert, part } => {
                let values = self.read_stored(&stored.name)?;
                let columns = values.len().checked_div(parameter.outputs).unwrap_or_default();
                if rows != parameter.outputs || !columns.is_multiple_of(parameter.experts) {
                    return Err(wrong(format!("{} rows, for {} experts", parameter.outputs, parameter.experts)));
                }
                let row = |row| parameter.row_of(*part, row) * columns;
                let of_row = |from: usize| values[from..from + columns].iter().skip(*expert).step_by(parameter.experts);
                Ok((0..parameter.matrix_dims()[0]).flat_map(|index| of_row(row(index)).copied()).collect())
            }
        }
    }

    /// The elements of a tensor as the file has them. Those of the last few are kept: the experts of a layer are read one after the other.
    pub(crate) fn read_stored(&self, stored: &str) -> Result<Arc<Vec<f32>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = kept.get(stored) {
            return Ok(values.clone());
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let values = Arc::new(self.inner.read_f32(stored)?);
        kept.insert(stored.to_owned(), values.clone());
        Ok(values)
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
