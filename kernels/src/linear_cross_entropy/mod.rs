//! The loss computed from hidden states and head, without the logits of all tokens at once.

pub(crate) mod autodiff;
pub mod capped;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
pub mod packed;

use std::ops::Range;

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{BasicOps, DType, IndexingUpdateOp, Int, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{cast, raw, typed};

/// Logits alive at a time; 8 Mi elements are 32 MiB of f32.
pub(crate) const CHUNK_ELEMENTS: usize = 8 << 20;

/// Token ids, `[tokens]`.
pub(crate) type Labels<B> = Tensor<B, 1, Int>;

/// Cross entropy of every token: `lossᵢ = logsumexp(hᵢ Wᵀ) - (hᵢ Wᵀ)[labelᵢ]`.
///
/// Masked tokens cost nothing: the caller leaves them out. Logits exist for one chunk of tokens at a time. The forward computes
/// the gradients for `hidden` too, and the backward multiplies them by each token's factor. Only the gradient of a trained weight
/// must wait for the factors: its backward recomputes the logits.
///
/// # Shapes
/// `hidden` `[tokens, features]`, `weight` `[vocabulary, features]`, `labels` `[tokens]`; the result is `[tokens]`.
///
/// # Precision
/// The losses are f32, and so are the factors of the backward; gradients have the dtype of their tensor.
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

/// Rows of a tile of a product, and of a matrix unit's fragment.
const WHOLE: [usize; 2] = [128, 16];

/// The tokens of every chunk. Chunks are of nearly one size, so that none is too short for a fast product, and whole tiles or fragments
/// where the largest allowed one is.
pub(crate) fn chunks(tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let even = tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1);
    let whole = WHOLE.into_iter().find(|whole| most.is_multiple_of(*whole)).unwrap_or(1);
    let chunk = even.next_multiple_of(whole);
    (0..tokens).step_by(chunk).map(move |start| start..tokens.min(start + chunk))
}

/// Some tokens of a tensor, or the tensor itself where those are all.
pub(crate) fn of_tokens<B: Backend, const D: usize, K: BasicOps<B>>(
    tensor: &Tensor<B, D, K>,
    tokens: &Range<usize>,
) -> Tensor<B, D, K> {
    if tokens.len() == tensor.dims()[0] {
        return tensor.clone();
    }
    tensor.clone().narrow(0, tokens.start, tokens.len())
}

/// The chunks, one after the other.
pub(crate) fn joined<B: Backend, const D: usize>(mut chunks: Vec<Tensor<B, D>>) -> FloatTensor<B> {
    raw(if chunks.len() == 1 { chunks.remove(0) } else { Tensor::cat(chunks, 0) })
}

/// Negative log-probabilities of the labels, `[tokens]`, and all log-probabilities, `[tokens, vocabulary]`.
fn chunk_losses<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: &Tensor<B, 2>,
    labels: Labels<B>,
) -> (Tensor<B, 1>, Tensor<B, 2>) {
    losses_of::<B>(B::dense_linear(raw(hidden), raw(weight.clone())), labels)
}

/// The same, of logits.
fn losses_of<B: Backend>(logits: FloatTensor<B>, labels: Labels<B>) -> (Tensor<B, 1>, Tensor<B, 2>) {
    let tokens = labels.dims()[0];
    let log_probabilities = log_softmax(typed::<B, 2>(logits).cast(DType::F32), 1);
    let losses = log_probabilities.clone().gather(1, labels.reshape([tokens, 1])).neg();
    (losses.reshape([tokens]), log_probabilities)
}

/// `softmax(h Wᵀ) - onehot(label)`, f32.
fn slopes<B: Backend>(log_probabilities: Tensor<B, 2>, labels: Labels<B>) -> Tensor<B, 2> {
    let tokens = labels.dims()[0];
    let minus_one = Tensor::<B, 2>::ones([tokens, 1], &labels.device()).cast(DType::F32).neg();
    log_probabilities.exp().scatter(1, labels.reshape([tokens, 1]), minus_one, IndexingUpdateOp::Add)
}

/// The composed losses, `[tokens]`.
pub fn reference<B: FusedBackend>(hidden: FloatTensor<B>, weight: FloatTensor<B>, labels: IntTensor<B>) -> FloatTensor<B> {
    let (hidden, weight) = (typed::<B, 2>(hidden), typed::<B, 2>(weight));
    let labels = Labels::<B>::from_primitive(labels);
    let chunks = chunks(hidden.dims()[0], chunk_tokens(weight.dims()[0]));
    joined(chunks.map(|at| chunk_losses(of_tokens(&hidden, &at), &weight, of_tokens(&labels, &at)).0).collect())
}

/// The composed losses, and the gradient of each for its own row of `hidden`: `dhᵢ = (softmax(hᵢ Wᵀ) - onehot(labelᵢ)) W`.
pub fn reference_with_gradient<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = hidden.dtype();
    let (hidden, weight) = (typed::<B, 2>(hidden), typed::<B, 2>(weight));
    let labels = Labels::<B>::from_primitive(labels);
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for at in chunks(hidden.dims()[0], chunk_tokens(weight.dims()[0])) {
        let labels = of_tokens(&labels, &at);
        let (loss, log_probabilities) = chunk_losses(of_tokens(&hidden, &at), &weight, labels.clone());
        losses.push(loss);
        let slopes = slopes(log_probabilities, labels).cast(dtype);
        gradients.push(typed::<B, 2>(B::linear_backward_input(raw(slopes), raw(weight.clone()))));
    }
    (joined(losses), joined(gradients))
}

/// The composed gradient of `Σ factorᵢ lossᵢ` for `weight`: `dW = Σ factorᵢ (softmax(hᵢ Wᵀ) - onehot(labelᵢ))ᵀ hᵢ`, computed in
/// f32, since a 16-bit dtype might not hold the factors.
pub fn reference_backward_weight<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    factors: FloatTensor<B>,
) -> FloatTensor<B> {
    let (hidden, weight, factors) = (typed::<B, 2>(hidden), typed::<B, 2>(weight), typed::<B, 1>(factors));
    let labels = Labels::<B>::from_primitive(labels);
    let mut sum = Sum::default();
    for at in chunks(hidden.dims()[0], chunk_tokens(weight.dims()[0])) {
        let (hidden, labels) = (of_tokens(&hidden, &at), of_tokens(&labels, &at));
        let (_, log_probabilities) = chunk_losses(hidden.clone(), &weight, labels.clone());
        let slopes = slopes(log_probabilities, labels) * of_tokens(&factors, &at).reshape([at.len(), 1]);
        sum.add(typed(B::linear_backward_weight(raw(hidden.cast(DType::F32)), raw(slopes))));
    }
    sum.finish(&weight, None)
}

/// The sum of a weight's gradient over chunks, f32.
#[derive(Debug)]
pub(crate) struct Sum<B: Backend>(Option<Tensor<B, 2>>);

impl<B: Backend> Default for Sum<B> {
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Backend> Sum<B> {
    /// Adds the part of a chunk.
    pub fn add(&mut self, part: Tensor<B, 2>) {
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + part,
            None => part,
        });
    }

    /// The sum, times a factor, in the dtype of the weight.
    pub fn finish(self, weight: &Tensor<B, 2>, factor: Option<Tensor<B, 1>>) -> FloatTensor<B> {
        let sum = self.0.unwrap_or_else(|| weight.zeros_like().cast(DType::F32));
        let sum = match factor {
            Some(factor) => sum * factor.unsqueeze(),
            None => sum,
        };
        cast::<B>(raw(sum), weight.dtype())
    }
}
