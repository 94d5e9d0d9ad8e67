//! The tensors of a GGUF file, and where their rows lie in a checkpoint.

use std::ops::Range;

use super::{DeclaredTensor, declared_tensors};
use crate::config::ModelConfig;

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, the slowest dimension first.
    pub shape: Vec<usize>,
    /// The tensor of the checkpoint that it is read from.
    pub source: DeclaredTensor,
    /// The part of the first dimension of that tensor.
    pub rows: Range<usize>,
}

/// All tensors of the GGUF file of a model, in the order of [`declared_tensors`].
pub fn gguf_tensors(config: &ModelConfig) -> Vec<GgufTensor> {
    declared_tensors(config).into_iter().flat_map(tensors_of).collect()
}

/// The tensors that have the rows of a tensor of the checkpoint.
fn tensors_of(source: DeclaredTensor) -> Vec<GgufTensor> {
    let rows = source.shape[0];
    let Some(halves) = source.part.halves else {
        return vec![GgufTensor { name: source.gguf.clone(), shape: source.shape.clone(), rows: 0..rows, source }];
    };
    let half = |index: usize| {
        let name = source.gguf.replacen(source.part.gguf, halves[index], 1);
        let range = index * rows / 2..(index + 1) * rows / 2;
        let shape = [&[range.len()], &source.shape[1..]].concat();
        GgufTensor { name, shape, rows: range, source: source.clone() }
    };
    vec![half(0), half(1)]
}
