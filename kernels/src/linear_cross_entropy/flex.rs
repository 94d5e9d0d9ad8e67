//! The CPU kernel: the logits of a chunk of tokens are replaced by their gradient.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{chunk_tokens, chunks, reference, reference_backward_weight, reference_with_gradient};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, dims2, tensor, vector};

/// Labels on the host, whatever integer width the tensor has.
fn read_labels(labels: FlexTensor) -> Vec<usize> {
    labels.into_data().iter::<i64>().map(|label| usize::try_from(label).unwrap_or(usize::MAX)).collect()
}

/// The losses, `[tokens]`.
pub(crate) fn losses(hidden: FlexTensor, weight: FlexTensor, labels: FlexTensor) -> FlexTensor {
    if !all_f32(&[&hidden, &weight]) {
        return reference::<Flex>(hidden, weight, labels);
    }
    let labels = read_labels(labels);
    let mut losses = vec![0.0; labels.len()];
    each_chunk(&hidden, &weight, &labels, |chunk| {
        let rows = chunk.logits.par_chunks_mut(chunk.weight.rows).zip(chunk.labels);
        let losses = &mut losses[chunk.start..chunk.start + chunk.labels.len()];
        losses.par_iter_mut().zip(rows).for_each(|(loss, (row, label))| *loss = row_loss(row, *label));
    });
    let tokens = losses.len();
    tensor(losses, [tokens])
}

/// The losses, and the gradient of each for its row of `hidden`.
pub(crate) fn with_gradient(hidden: FlexTensor, weight: FlexTensor, labels: FlexTensor) -> (FlexTensor, FlexTensor) {
    if !all_f32(&[&hidden, &weight]) {
        return reference_with_gradient::<Flex>(hidden, weight, labels);
    }
    let [tokens, features] = dims2(&hidden);
    let labels = read_labels(labels);
    let (mut losses, mut d_hidden) = (vec![0.0; tokens], vec![0.0; tokens * features]);
    each_chunk(&hidden, &weight, &labels, |chunk| {
        let (start, end) = (chunk.start, chunk.start + chunk.labels.len());
        let rows = chunk.logits.par_chunks_mut(chunk.weight.rows).zip(chunk.labels);
        losses[start..end].par_iter_mut().zip(rows).for_each(|(loss, (row, label))| *loss = row_slopes(row, *label, 1.0));
        let slopes = Matrix::new(chunk.logits, end - start, chunk.weight.rows);
        let target = MatrixMut { data: &mut d_hidden[start * features..end * features], row_stride: features };
        multiply(target, false, 1.0, slopes, chunk.weight, true);
    });
    (tensor(losses, [tokens]), tensor(d_hidden, [tokens, features]))
}

/// The gradient of `Σ factorᵢ lossᵢ` for `weight`.
pub(crate) fn backward_weight(
    hidden: FlexTensor,
    weight: FlexTensor,
    labels: FlexTensor,
    factors: FlexTensor,
) -> FlexTensor {
    if !all_f32(&[&hidden, &weight, &factors]) {
        return reference_backward_weight::<Flex>(hidden, weight, labels, factors);
    }
    let [vocabulary, features] = dims2(&weight);
    let labels = read_labels(labels);
    let factors = factors.to_contiguous();
    let factors = factors.storage::<f32>();
    let mut d_weight = vec![0.0; vocabulary * features];
    each_chunk(&hidden, &weight, &labels, |chunk| {
        let factors = &factors[chunk.start..chunk.start + chunk.labels.len()];
        let rows = chunk.logits.par_chunks_mut(vocabulary).zip(chunk.labels).zip(factors);
        rows.for_each(|((row, label), factor)| {
            row_slopes(row, *label, *factor);
        });
        let slopes = Matrix::new(chunk.logits, chunk.labels.len(), vocabulary);
        let target = MatrixMut { data: &mut d_weight, row_stride: features };
        multiply(target, true, 1.0, slopes.transposed(), chunk.hidden, true);
    });
    tensor(d_weight, [vocabulary, features])
}

/// Some tokens with their logits.
struct Chunk<'a> {
    /// Number of the first token.
    start: usize,
    hidden: Matrix<'a>,
    weight: Matrix<'a>,
    labels: &'a [usize],
    /// `[tokens, vocabulary]`.
    logits: &'a mut [f32],
}

/// Calls `each` for one chunk after the other; their logits share one buffer.
fn each_chunk(hidden: &FlexTensor, weight: &FlexTensor, labels: &[usize], mut each: impl FnMut(Chunk)) {
    let [tokens, features] = dims2(hidden);
    let [vocabulary, _] = dims2(weight);
    let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
    let hidden = Matrix::new(hidden.storage(), tokens, features);
    let weight = Matrix::new(weight.storage(), vocabulary, features);
    assert!(
        labels.len() == tokens && labels.iter().all(|label| *label < vocabulary),
        "linear_cross_entropy: a label lies outside the vocabulary of {vocabulary}"
    );
    let chunk = chunk_tokens(vocabulary);
    let mut logits = vec![0.0; chunk.min(tokens) * vocabulary];
    for at in chunks(tokens, chunk) {
        let hidden = hidden.narrow_rows(at.start, at.len());
        let logits = &mut logits[..at.len() * vocabulary];
        multiply(MatrixMut { data: logits, row_stride: vocabulary }, false, 1.0, hidden, weight.transposed(), true);
        each(Chunk { start: at.start, hidden, weight, labels: &labels[at], logits });
    }
}

/// The loss of one token; the row becomes `e^(logit - largest)`.
fn row_loss(row: &mut [f32], label: usize) -> f32 {
    exponentials(row, label).0
}

/// The loss of one token; the row becomes `factor · (softmax - onehot)`.
fn row_slopes(row: &mut [f32], label: usize, factor: f32) -> f32 {
    let (loss, sum) = exponentials(row, label);
    vector::scale(row, factor / sum);
    row[label] -= factor;
    loss
}

/// The loss of one token, and the sum of what the row becomes.
fn exponentials(row: &mut [f32], label: usize) -> (f32, f32) {
    let largest = vector::maximum(row);
    let own = row[label];
    let sum = vector::exp_and_sum(row, largest);
    ((f64::from(sum).ln() + f64::from(largest) - f64::from(own)) as f32, sum)
}
