//! The loss straight from hidden states and head, without the logits of all tokens at once.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// Elements of logits alive at a time; 8 Mi are 32 MiB of f32.
pub(crate) const CHUNK_ELEMENTS: usize = 8 << 20;

/// Summed cross entropy of the tokens: `Σ logsumexp(h Wᵀ) - (h Wᵀ)[label]`.
///
/// Tokens that do not count are left out by the caller, and so cost nothing. The logits exist for a chunk of tokens
/// at a time; the backward's gradients are taken in the same pass.
///
/// # Shapes
/// `hidden` `[tokens, features]`, `weight` `[vocabulary, features]`, `labels` `[tokens]`; the result is `[1]`, f32.
///
/// # Panics
/// When shapes do not fit.
///
/// # Source
/// Hsu et al. 2024, "Liger Kernel" (fused linear cross entropy).
pub fn linear_cross_entropy<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    labels: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    assert!(
        hidden.dims()[1] == weight.dims()[1] && hidden.dims()[0] == labels.dims()[0],
        "linear_cross_entropy: hidden {:?}, weight {:?}, labels {:?} do not fit",
        hidden.dims(),
        weight.dims(),
        labels.dims()
    );
    typed(B::linear_cross_entropy(raw(hidden), raw(weight), labels.into_primitive()))
}

/// Tokens whose logits are computed together.
pub(crate) fn chunk_tokens(vocabulary: usize) -> usize {
    (CHUNK_ELEMENTS / vocabulary.max(1)).max(1)
}

/// Tokens with their labels, so many at a time.
#[cfg(feature = "cube")]
pub(crate) fn chunks<B: Backend>(
    hidden: FloatTensor<B>,
    labels: IntTensor<B>,
    chunk: usize,
) -> impl Iterator<Item = (FloatTensor<B>, IntTensor<B>)> {
    let hidden = typed::<B, 2>(hidden);
    let labels = Tensor::<B, 1, Int>::from_primitive(labels);
    let tokens = hidden.dims()[0];
    (0..tokens).step_by(chunk).map(move |start| {
        let length = chunk.min(tokens - start);
        if length == tokens {
            return (raw(hidden.clone()), labels.clone().into_primitive());
        }
        (raw(hidden.clone().narrow(0, start, length)), labels.clone().narrow(0, start, length).into_primitive())
    })
}

/// The sum of the losses of all chunks, `[1]`.
#[cfg(feature = "cube")]
pub(crate) fn total<B: Backend>(mut losses: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if losses.len() == 1 {
        return raw(typed::<B, 1>(losses.remove(0)).sum());
    }
    raw(Tensor::cat(losses.into_iter().map(typed::<B, 1>).collect(), 0).sum())
}

/// Negative log-probabilities of the labels, `[tokens, 1]`, beside all log-probabilities, `[tokens, vocabulary]`.
fn chunk_loss<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: &Tensor<B, 2>,
    labels: Tensor<B, 1, Int>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let tokens = hidden.dims()[0];
    let logits = typed::<B, 2>(B::dense_linear(raw(hidden), raw(weight.clone()))).cast(DType::F32);
    let log_probabilities = log_softmax(logits, 1);
    let losses = log_probabilities.clone().gather(1, labels.reshape([tokens, 1])).neg();
    (losses, log_probabilities)
}

/// The composed forward.
pub fn reference<B: FusedBackend>(hidden: FloatTensor<B>, weight: FloatTensor<B>, labels: IntTensor<B>) -> FloatTensor<B> {
    let (hidden, weight) = (typed::<B, 2>(hidden), typed::<B, 2>(weight));
    let labels = Tensor::<B, 1, Int>::from_primitive(labels);
    let (tokens, chunk) = (hidden.dims()[0], chunk_tokens(weight.dims()[0]));
    let losses: Vec<Tensor<B, 2>> = (0..tokens)
        .step_by(chunk)
        .map(|start| {
            let length = chunk.min(tokens - start);
            chunk_loss(hidden.clone().narrow(0, start, length), &weight, labels.clone().narrow(0, start, length)).0
        })
        .collect();
    raw(Tensor::cat(losses, 0).sum())
}

/// The composed forward with gradients of the sum: `dh = (softmax(h Wᵀ) - onehot(label)) W`, `dW = (…)ᵀ h`.
pub fn reference_with_gradient<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    weight_gradient: bool,
) -> (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>) {
    let dtype = hidden.dtype();
    let (hidden, weight) = (typed::<B, 2>(hidden), typed::<B, 2>(weight));
    let labels = Tensor::<B, 1, Int>::from_primitive(labels);
    let (tokens, chunk) = (hidden.dims()[0], chunk_tokens(weight.dims()[0]));
    let (mut losses, mut d_hidden, mut d_weight) = (Vec::new(), Vec::new(), None::<Tensor<B, 2>>);
    for start in (0..tokens).step_by(chunk) {
        let length = chunk.min(tokens - start);
        let (h, l) = (hidden.clone().narrow(0, start, length), labels.clone().narrow(0, start, length));
        let (loss, log_probabilities) = chunk_loss(h.clone(), &weight, l.clone());
        losses.push(loss);
        let minus_one = Tensor::<B, 2>::ones([length, 1], &h.device()).cast(DType::F32).neg();
        let d_logits = log_probabilities
            .exp()
            .scatter(1, l.reshape([length, 1]), minus_one, burn::tensor::IndexingUpdateOp::Add)
            .cast(dtype);
        if weight_gradient {
            let part = typed::<B, 2>(B::linear_backward_weight(raw(h), raw(d_logits.clone()))).cast(DType::F32);
            d_weight = Some(match d_weight {
                Some(sum) => sum + part,
                None => part,
            });
        }
        d_hidden.push(typed::<B, 2>(B::linear_backward_input(raw(d_logits), raw(weight.clone()))));
    }
    let weight_dtype = weight.dtype();
    (raw(Tensor::cat(losses, 0).sum()), raw(Tensor::cat(d_hidden, 0)), d_weight.map(|sum| raw(sum.cast(weight_dtype))))
}
