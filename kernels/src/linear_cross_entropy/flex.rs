//! The CPU kernel: the logits of a chunk of tokens are replaced by their gradient.

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{chunks, packed, reference, reference_backward_weight, reference_with_gradient};
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{all_f32, dims2, tensor, vector};
use crate::linear::packed::flex::PackedMatrix;
use crate::packed::PackedTensor;

/// Most logits alive at a time, 16 MiB: larger products are not faster, and all activations are alive beside them.
const CHUNK_ELEMENTS: usize = 4 << 20;

/// Tokens of which chunks are multiples, where a chunk has as many.
const WHOLE: usize = 32;

/// Tokens whose logits are computed together.
fn chunk_tokens(vocabulary: usize) -> usize {
    let most = (CHUNK_ELEMENTS / vocabulary.max(1)).max(1);
    if most < WHOLE { most } else { most / WHOLE * WHOLE }
}

/// Labels on the host, whatever integer width the tensor has.
fn read_labels(labels: FlexTensor) -> Vec<usize> {
    labels.into_data().iter::<i64>().map(|label| usize::try_from(label).unwrap_or(usize::MAX)).collect()
}

/// The matrix that makes logits.
#[derive(Clone, Copy)]
enum Head<'a> {
    Dense(Matrix<'a>),
    Packed(PackedMatrix<'a>),
}

impl Head<'_> {
    fn vocabulary(self) -> usize {
        match self {
            Head::Dense(weight) => weight.rows,
            Head::Packed(weight) => weight.dims()[0],
        }
    }

    fn logits(self, hidden: Matrix, target: MatrixMut) {
        match self {
            Head::Dense(weight) => multiply(target, false, 1.0, hidden, weight.transposed(), true),
            Head::Packed(weight) => weight.forward_into(hidden, target),
        }
    }

    /// The gradient of the hidden states.
    fn backward(self, slopes: Matrix, target: MatrixMut) {
        match self {
            Head::Dense(weight) => multiply(target, false, 1.0, slopes, weight, true),
            Head::Packed(weight) => weight.backward_into(slopes, target),
        }
    }
}

/// The losses, `[tokens]`.
pub(crate) fn losses(hidden: FlexTensor, weight: FlexTensor, labels: FlexTensor) -> FlexTensor {
    if !all_f32(&[&hidden, &weight]) {
        return reference::<Flex>(hidden, weight, labels);
    }
    let weight = weight.to_contiguous();
    losses_of(&hidden, Head::Dense(matrix(&weight)), labels)
}

/// The losses with a packed head.
pub(crate) fn packed_losses(hidden: FlexTensor, weight: PackedTensor<Flex>, labels: FlexTensor) -> FlexTensor {
    match PackedMatrix::of(&weight).filter(|_| all_f32(&[&hidden])) {
        Some(head) => losses_of(&hidden, Head::Packed(head), labels),
        None => packed::reference::<Flex>(hidden, weight, labels),
    }
}

fn losses_of(hidden: &FlexTensor, head: Head, labels: FlexTensor) -> FlexTensor {
    let labels = read_labels(labels);
    let mut losses = vec![0.0; labels.len()];
    each_chunk(hidden, head, &labels, |chunk| {
        let rows = chunk.logits.par_chunks_mut(head.vocabulary()).zip(chunk.labels);
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
    let weight = weight.to_contiguous();
    with_gradient_of(&hidden, Head::Dense(matrix(&weight)), labels)
}

/// The same with a packed head.
pub(crate) fn packed_with_gradient(
    hidden: FlexTensor,
    weight: PackedTensor<Flex>,
    labels: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    match PackedMatrix::of(&weight).filter(|_| all_f32(&[&hidden])) {
        Some(head) => with_gradient_of(&hidden, Head::Packed(head), labels),
        None => packed::reference_with_gradient::<Flex>(hidden, weight, labels),
    }
}

fn with_gradient_of(hidden: &FlexTensor, head: Head, labels: FlexTensor) -> (FlexTensor, FlexTensor) {
    let [tokens, features] = dims2(hidden);
    let (labels, vocabulary) = (read_labels(labels), head.vocabulary());
    let (mut losses, mut d_hidden) = (vec![0.0; tokens], vec![0.0; tokens * features]);
    each_chunk(hidden, head, &labels, |chunk| {
        let (start, end) = (chunk.start, chunk.start + chunk.labels.len());
        let rows = chunk.logits.par_chunks_mut(vocabulary).zip(chunk.labels);
        losses[start..end].par_iter_mut().zip(rows).for_each(|(loss, (row, label))| *loss = row_slopes(row, *label, 1.0));
        let slopes = Matrix::new(chunk.logits, end - start, vocabulary);
        let target = MatrixMut { data: &mut d_hidden[start * features..end * features], row_stride: features };
        head.backward(slopes, target);
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
    let weight = weight.to_contiguous();
    each_chunk(&hidden, Head::Dense(matrix(&weight)), &labels, |chunk| {
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
    labels: &'a [usize],
    /// `[tokens, vocabulary]`.
    logits: &'a mut [f32],
}

/// A contiguous tensor as a matrix.
fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let [rows, columns] = dims2(tensor);
    Matrix::new(tensor.storage(), rows, columns)
}

/// Calls `each` for one chunk after the other; their logits share one buffer.
fn each_chunk(hidden: &FlexTensor, head: Head, labels: &[usize], mut each: impl FnMut(Chunk)) {
    let (hidden, vocabulary) = (hidden.to_contiguous(), head.vocabulary());
    let hidden = matrix(&hidden);
    assert!(
        labels.len() == hidden.rows && labels.iter().all(|label| *label < vocabulary),
        "linear_cross_entropy: a label lies outside the vocabulary of {vocabulary}"
    );
    let chunk = chunk_tokens(vocabulary);
    let mut logits = vec![0.0; chunk.min(hidden.rows) * vocabulary];
    for at in chunks(hidden.rows, chunk) {
        let hidden = hidden.narrow_rows(at.start, at.len());
        let logits = &mut logits[..at.len() * vocabulary];
        head.logits(hidden, MatrixMut { data: logits, row_stride: vocabulary });
        each(Chunk { start: at.start, hidden, labels: &labels[at], logits });
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
