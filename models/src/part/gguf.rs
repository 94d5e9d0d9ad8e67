//! The tensors of a GGUF file, and where their rows lie in a checkpoint.

use std::ops::Range;

use super::{DeclaredTensor, declared_tensors};
use crate::config::ModelConfig;

/// A tensor of a GGUF file: that of a checkpoint, half of the rows of one, or one after the other those of all experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, the slowest dimension first.
    pub shape: Vec<usize>,
    /// The tensor of the checkpoint that it is read from, or the first of them.
    pub source: DeclaredTensor,
    /// The tensors of the other experts.
    pub others: Vec<DeclaredTensor>,
    /// The part of the first dimension of each of these tensors.
    pub rows: Range<usize>,
}

impl GgufTensor {
    /// The tensors of the checkpoint that it is read from.
    pub fn sources(&self) -> impl Iterator<Item = &DeclaredTensor> {
        std::iter::once(&self.source).chain(&self.others)
    }

    /// All of one tensor.
    fn whole(source: DeclaredTensor) -> Self {
        let (name, shape) = (source.gguf.clone(), source.shape.clone());
        Self { name, rows: 0..shape[0], shape, source, others: Vec::new() }
    }

    /// One of the two halves of the rows of a tensor.
    fn half(source: &DeclaredTensor, index: usize, gguf: &str) -> Self {
        let name = source.gguf.replacen(source.part.gguf, gguf, 1);
        let rows = source.shape[0] / 2;
        let shape = [&[rows][..], &source.shape[1..]].concat();
        Self { name, shape, source: source.clone(), others: Vec::new(), rows: index * rows..(index + 1) * rows }
    }
}

/// All tensors of the GGUF file of a model, in the order of [`declared_tensors`].
pub fn gguf_tensors(config: &ModelConfig) -> Vec<GgufTensor> {
    let mut tensors: Vec<GgufTensor> = Vec::new();
    for source in declared_tensors(config) {
        if let Some(halves) = source.part.halves {
            tensors.extend((0..2).map(|index| GgufTensor::half(&source, index, halves[index])));
        } else if !source.part.role.is_expert() {
            tensors.push(GgufTensor::whole(source));
        } else if let Some(same) = tensors.iter_mut().rev().find(|same| same.name == source.gguf) {
            same.shape[0] += 1;
            same.others.push(source);
        } else {
            let whole = GgufTensor::whole(source);
            tensors.push(GgufTensor { shape: [&[1][..], &whole.shape[..]].concat(), ..whole });
        }
    }
    tensors
}
