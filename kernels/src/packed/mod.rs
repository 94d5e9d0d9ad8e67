//! How frozen matrices are stored in few bits: the layouts of their blocks, and the way from and to floats on the host.
//!
//! A format is a file. What is written here is what lies in checkpoints, so a packed checkpoint is taken over block by block.

pub mod affine;
pub mod codebook;
#[cfg(feature = "cube")]
pub(crate) mod cube;
mod error;
mod floats;
pub mod gguf;
mod kind;
pub mod nf4;
pub mod planes;
mod tensor;
mod vector;

use rayon::prelude::*;

pub use affine::Affine;
pub use error::PackError;
pub use floats::{Element, Floats};
pub use gguf::{GgmlType, GgufBlocks};
pub use kind::PackedKind;
pub use nf4::Nf4;
pub use planes::Planes;
pub use tensor::PackedTensor;

/// Elements that a task dequantises or quantises.
const TASK: usize = 1 << 14;

/// A matrix `[out, in]` in few bits, on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Packed {
    /// Four bits by the quantiles of a normal distribution, as bitsandbytes keeps them.
    Nf4(Nf4),
    /// Four or eight bits times a scale, plus a bias, as MLX keeps them.
    Affine(Affine),
    /// Blocks of a GGUF file.
    Gguf(GgufBlocks),
}

impl Packed {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Nf4(matrix) => matrix.dims(),
            Self::Affine(matrix) => matrix.dims(),
            Self::Gguf(matrix) => matrix.dims(),
        }
    }

    /// Bytes that codes and scales take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Nf4(matrix) => matrix.bytes(),
            Self::Affine(matrix) => matrix.bytes(),
            Self::Gguf(matrix) => matrix.bytes().len(),
        }
    }

    /// The rows from `first` on, as many as `values` holds.
    ///
    /// # Panics
    /// When `values` is not whole rows, or reaches beyond the last one.
    pub fn rows_into(&self, first: usize, values: &mut [f32]) {
        let [rows, columns] = self.dims();
        let whole = columns == 0 || values.len().is_multiple_of(columns);
        assert!(
            whole && first * columns + values.len() <= rows * columns,
            "{} elements from row {first} on of a matrix {rows} × {columns}",
            values.len()
        );
        self.dequantize_into(first * columns, values);
    }

    /// All of it, row-major, by all threads.
    pub fn dequantize(&self) -> Vec<f32> {
        let [rows, columns] = self.dims();
        let mut values = vec![0.0; rows * columns];
        let task = match self {
            Self::Gguf(matrix) => TASK.next_multiple_of(matrix.kind().block_elements()),
            Self::Nf4(_) | Self::Affine(_) => TASK,
        };
        let tasks = values.par_chunks_mut(task).enumerate();
        tasks.for_each(|(number, values)| self.dequantize_into(number * task, values));
        values
    }

    /// The elements from `start` on, as many as `values` holds; of GGUF, whole blocks.
    fn dequantize_into(&self, start: usize, values: &mut [f32]) {
        match self {
            Self::Nf4(matrix) => matrix.dequantize_into(start, values),
            Self::Affine(matrix) => matrix.dequantize_into(start, values),
            Self::Gguf(matrix) => matrix.dequantize_into(start, values),
        }
    }
}

/// The first element that is not finite.
fn non_finite<T: Element>(values: &[T]) -> Option<(usize, f32)> {
    let found = values.par_chunks(TASK).enumerate().find_map_first(|(task, values)| {
        let at = values.iter().position(|value| !value.value().is_finite())?;
        Some(task * TASK + at)
    });
    found.map(|at| (at, values[at].value()))
}

/// What every format asks of a matrix: that the shape is that of the elements, and that each of them is a number.
fn check<T: Element>(tensor: &str, values: &[T], dims: [usize; 2]) -> Result<(), PackError> {
    check_length(tensor, values, dims)?;
    check_finite(tensor, values)
}

fn check_length<T: Element>(tensor: &str, values: &[T], [rows, columns]: [usize; 2]) -> Result<(), PackError> {
    if rows.checked_mul(columns) == Some(values.len()) {
        return Ok(());
    }
    let expected = rows.saturating_mul(columns);
    Err(PackError::Length { tensor: tensor.to_owned(), part: "the matrix", expected, found: values.len() })
}

fn check_finite<T: Element>(tensor: &str, values: &[T]) -> Result<(), PackError> {
    match non_finite(values) {
        Some((index, value)) => Err(PackError::NotFinite { tensor: tensor.to_owned(), index, value }),
        None => Ok(()),
    }
}
