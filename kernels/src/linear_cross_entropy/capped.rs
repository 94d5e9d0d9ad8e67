//! The loss of soft-capped logits, composed of other operations on every backend.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorMetadata};

use super::{Labels, Sum, chunk_tokens, chunks, joined, losses_of, of_tokens, slopes};
use crate::FusedBackend;
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};

/// `cap · tanh(logits / cap)`, computed in f32, in the dtype of the logits.
///
/// # Source
/// Gemma Team 2024, "Gemma 2".
pub fn soft_cap<B: Backend>(logits: Tensor<B, 2>, cap: f64) -> Tensor<B, 2> {
    let dtype = logits.dtype();
    in_f32(logits, cap).cast(dtype)
}

/// The same in f32.
fn in_f32<B: Backend>(logits: Tensor<B, 2>, cap: f64) -> Tensor<B, 2> {
    logits.cast(DType::F32).div_scalar(cap).tanh().mul_scalar(cap)
}

/// As [`linear_cross_entropy`](crate::linear_cross_entropy()), of the logits `cap · tanh(hᵢ Wᵀ / cap)`.
///
/// # Panics
/// When shapes do not fit.
pub fn capped_linear_cross_entropy<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    labels: Tensor<B, 1, Int>,
    cap: f64,
) -> Tensor<B, 1> {
    check(hidden.dims(), weight.dims(), labels.dims());
    typed(B::capped_linear_cross_entropy(raw(hidden), raw(weight), labels.into_primitive(), cap))
}

/// As [`capped_linear_cross_entropy`], with a packed head, which has no gradient.
///
/// # Panics
/// When shapes do not fit.
pub fn packed_capped_linear_cross_entropy<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: &PackedTensor<B>,
    labels: Tensor<B, 1, Int>,
    cap: f64,
) -> Tensor<B, 1> {
    check(hidden.dims(), weight.dims(), labels.dims());
    typed(B::packed_capped_linear_cross_entropy(raw(hidden), weight.clone(), labels.into_primitive(), cap))
}

fn check(hidden: [usize; 2], weight: [usize; 2], labels: [usize; 1]) {
    assert!(
        hidden[1] == weight[1] && hidden[0] == labels[0],
        "capped_linear_cross_entropy: hidden {hidden:?}, weight {weight:?}, labels {labels:?} do not fit"
    );
}

/// The losses, `[tokens]`.
pub fn reference<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    cap: f64,
) -> FloatTensor<B> {
    let vocabulary = weight.shape()[0];
    losses::<B>(hidden, labels, vocabulary, cap, |hidden| B::dense_linear(hidden, weight.clone()))
}

/// The losses with a packed head, `[tokens]`.
pub fn packed_reference<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: PackedTensor<B>,
    labels: IntTensor<B>,
    cap: f64,
) -> FloatTensor<B> {
    losses::<B>(hidden, labels, weight.dims()[0], cap, |hidden| B::packed_linear(hidden, weight.clone()))
}

/// The losses, and the gradient of each for its own row of `hidden`: with the capped logits `c`,
/// `dhᵢ = (softmax(cᵢ) - onehot(labelᵢ)) (1 - (cᵢ / cap)²) W`.
pub fn reference_with_gradient<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    cap: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let logits = |hidden| B::dense_linear(hidden, weight.clone());
    let input = |slopes| B::linear_backward_input(slopes, weight.clone());
    losses_with_gradient::<B>((hidden, labels), weight.shape()[0], cap, logits, input)
}

/// The same with a packed head.
pub fn packed_reference_with_gradient<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: PackedTensor<B>,
    labels: IntTensor<B>,
    cap: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let logits = |hidden| B::packed_linear(hidden, weight.clone());
    let input = |slopes| B::packed_linear_backward_input(slopes, weight.clone());
    losses_with_gradient::<B>((hidden, labels), weight.dims()[0], cap, logits, input)
}

/// The gradient of `Σ factorᵢ lossᵢ` for `weight`, computed in f32.
pub fn reference_backward_weight<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    factors: FloatTensor<B>,
    cap: f64,
) -> FloatTensor<B> {
    let (hidden, factors) = (typed::<B, 2>(hidden), typed::<B, 1>(factors));
    let labels = Labels::<B>::from_primitive(labels);
    let mut sum = Sum::<B>::default();
    for at in chunks(hidden.dims()[0], chunk_tokens(weight.shape()[0])) {
        let hidden = of_tokens(&hidden, &at);
        let logits = B::dense_linear(raw(hidden.clone()), weight.clone());
        let (_, slopes) = capped_slopes::<B>(logits, of_tokens(&labels, &at), cap);
        let slopes = slopes * of_tokens(&factors, &at).reshape([at.len(), 1]);
        sum.add(typed(B::linear_backward_weight(raw(hidden.cast(DType::F32)), raw(slopes))));
    }
    sum.finish(&typed(weight), None)
}

fn losses<B: FusedBackend>(
    hidden: FloatTensor<B>,
    labels: IntTensor<B>,
    vocabulary: usize,
    cap: f64,
    logits: impl Fn(FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let (hidden, labels) = (typed::<B, 2>(hidden), Labels::<B>::from_primitive(labels));
    let losses = chunks(hidden.dims()[0], chunk_tokens(vocabulary)).map(|at| {
        let capped = in_f32(typed::<B, 2>(logits(raw(of_tokens(&hidden, &at)))), cap);
        losses_of::<B>(raw(capped), of_tokens(&labels, &at)).0
    });
    joined(losses.collect())
}

fn losses_with_gradient<B: FusedBackend>(
    (hidden, labels): (FloatTensor<B>, IntTensor<B>),
    vocabulary: usize,
    cap: f64,
    logits: impl Fn(FloatTensor<B>) -> FloatTensor<B>,
    input: impl Fn(FloatTensor<B>) -> FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (hidden, labels) = (typed::<B, 2>(hidden), Labels::<B>::from_primitive(labels));
    let dtype = hidden.dtype();
    let (losses, gradients) = chunks(hidden.dims()[0], chunk_tokens(vocabulary))
        .map(|at| {
            let logits = logits(raw(of_tokens(&hidden, &at)));
            let (losses, slopes) = capped_slopes::<B>(logits, of_tokens(&labels, &at), cap);
            (losses, typed::<B, 2>(input(raw(slopes.cast(dtype)))))
        })
        .unzip();
    (joined(losses), joined(gradients))
}

/// The losses, `[tokens]`, and their gradients for the logits before the cap, `[tokens, vocabulary]`, both f32.
fn capped_slopes<B: FusedBackend>(logits: FloatTensor<B>, labels: Labels<B>, cap: f64) -> (Tensor<B, 1>, Tensor<B, 2>) {
    let capped = in_f32(typed::<B, 2>(logits), cap);
    let (losses, log_probabilities) = losses_of::<B>(raw(capped.clone()), labels.clone());
    let ratio = capped.div_scalar(cap);
    let of_cap = (ratio.clone() * ratio).neg().add_scalar(1.0);
    (losses, slopes(log_probabilities, labels) * of_cap)
}
