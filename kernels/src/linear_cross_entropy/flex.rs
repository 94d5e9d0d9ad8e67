//! The CPU kernel: logits of a chunk of tokens become their gradient in place.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::chunk_tokens;
use crate::flex::matrix::{Matrix, MatrixMut, multiply};
use crate::flex::{dims2, tensor, vector};

/// Labels on the host, whatever integer width the tensor has.
fn read_labels(labels: FlexTensor) -> Vec<usize> {
    labels.into_data().iter::<i64>().map(|label| usize::try_from(label).unwrap_or(usize::MAX)).collect()
}

pub(crate) fn loss(hidden: &FlexTensor, weight: &FlexTensor, labels: FlexTensor) -> FlexTensor {
    let (loss, ..) = run(hidden, weight, labels, false, false);
    tensor(vec![loss], [1])
}

pub(crate) fn with_gradient(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    labels: FlexTensor,
    weight_gradient: bool,
) -> (FlexTensor, FlexTensor, Option<FlexTensor>) {
    let (tokens, features) = dims2(hidden);
    let vocabulary = dims2(weight).0;
    let (loss, d_hidden, d_weight) = run(hidden, weight, labels, true, weight_gradient);
    let d_weight = weight_gradient.then(|| tensor(d_weight, [vocabulary, features]));
    (tensor(vec![loss], [1]), tensor(d_hidden, [tokens, features]), d_weight)
}

fn run(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    labels: FlexTensor,
    gradient: bool,
    weight_gradient: bool,
) -> (f32, Vec<f32>, Vec<f32>) {
    let (tokens, features) = dims2(hidden);
    let vocabulary = dims2(weight).0;
    let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
    let hidden = Matrix::new(hidden.storage(), tokens, features);
    let weight = Matrix::new(weight.storage(), vocabulary, features);
    let labels = read_labels(labels);
    assert!(
        labels.len() == tokens && labels.iter().all(|label| *label < vocabulary),
        "linear_cross_entropy: a label is no token"
    );
    let chunk = chunk_tokens(vocabulary);
    let mut logits = vec![0.0; chunk.min(tokens) * vocabulary];
    let mut d_hidden = vec![0.0; if gradient { tokens * features } else { 0 }];
    let mut d_weight = vec![0.0; if weight_gradient { vocabulary * features } else { 0 }];
    let mut loss = 0.0f64;
    for start in (0..tokens).step_by(chunk) {
        let length = chunk.min(tokens - start);
        let h = hidden.narrow_rows(start, length);
        let logits = &mut logits[..length * vocabulary];
        multiply(MatrixMut { data: logits, row_stride: vocabulary }, false, 1.0, h, weight.transposed(), true);
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocabulary)
            .zip(&labels[start..start + length])
            .map(|(row, label)| row_loss(row, *label, gradient))
            .collect();
        loss += losses.iter().sum::<f64>();
        if gradient {
            let d_logits = Matrix::new(logits, length, vocabulary);
            let target = &mut d_hidden[start * features..(start + length) * features];
            multiply(MatrixMut { data: target, row_stride: features }, false, 1.0, d_logits, weight, true);
            if weight_gradient {
                let target = MatrixMut { data: &mut d_weight, row_stride: features };
                multiply(target, true, 1.0, d_logits.transposed(), h, true);
            }
        }
    }
    (loss as f32, d_hidden, d_weight)
}

/// The loss of one token; with `gradient` the row becomes `softmax - onehot`.
fn row_loss(row: &mut [f32], label: usize, gradient: bool) -> f64 {
    let largest = vector::maximum(row);
    let own = row[label];
    let sum = vector::exp_and_sum(row, largest);
    if gradient {
        vector::scale(row, 1.0 / sum);
        row[label] -= 1.0;
    }
    f64::from(sum).ln() + f64::from(largest) - f64::from(own)
}
