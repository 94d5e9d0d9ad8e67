//! The loss with a packed head.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor, TensorMetadata};

use super::autodiff::scaled;
use super::{Labels, capped, chunk_tokens, chunks, joined, losses_of, of_tokens, slopes};
use crate::FusedBackend;
use crate::linear::packed::inner;
use crate::packed::PackedTensor;
use crate::primitive::{cast, raw, typed};

/// As [`linear_cross_entropy`](crate::linear_cross_entropy()), with a packed head, which has no gradient.
///
/// # Panics
/// When shapes do not fit.
pub fn packed_linear_cross_entropy<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    weight: &PackedTensor<B>,
    labels: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    assert!(
        hidden.dims()[1] == weight.dims()[1] && hidden.dims()[0] == labels.dims()[0],
        "packed_linear_cross_entropy: hidden {:?}, weight {:?}, labels {:?} do not fit",
        hidden.dims(),
        weight.dims(),
        labels.dims()
    );
    typed(B::packed_linear_cross_entropy(raw(hidden), weight.clone(), labels.into_primitive()))
}

/// The composed losses, `[tokens]`.
pub fn reference<B: FusedBackend>(hidden: FloatTensor<B>, weight: PackedTensor<B>, labels: IntTensor<B>) -> FloatTensor<B> {
    let hidden = typed::<B, 2>(hidden);
    let labels = Labels::<B>::from_primitive(labels);
    let chunks = chunks(hidden.dims()[0], chunk_tokens(weight.dims()[0]));
    let losses = chunks.map(|at| {
        let logits = B::packed_linear(raw(of_tokens(&hidden, &at)), weight.clone());
        losses_of::<B>(logits, of_tokens(&labels, &at)).0
    });
    joined(losses.collect())
}

/// The composed losses, and the gradient of each for its own row of `hidden`.
pub fn reference_with_gradient<B: FusedBackend>(
    hidden: FloatTensor<B>,
    weight: PackedTensor<B>,
    labels: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = hidden.dtype();
    let hidden = typed::<B, 2>(hidden);
    let labels = Labels::<B>::from_primitive(labels);
    let chunks = chunks(hidden.dims()[0], chunk_tokens(weight.dims()[0]));
    let (losses, gradients) = chunks
        .map(|at| {
            let labels = of_tokens(&labels, &at);
            let logits = B::packed_linear(raw(of_tokens(&hidden, &at)), weight.clone());
            let (losses, log_probabilities) = losses_of::<B>(logits, labels.clone());
            let slopes = raw(slopes(log_probabilities, labels).cast(dtype));
            (losses, typed::<B, 2>(B::packed_linear_backward_input(slopes, weight.clone())))
        })
        .unzip();
    (joined(losses), joined(gradients))
}

#[derive(Debug)]
struct PackedLinearCrossEntropy;

impl<B: FusedBackend> Backward<B, 1> for PackedLinearCrossEntropy {
    /// The gradients for the hidden states, each before its token's factor.
    type State = Option<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let factors = cast::<B>(grads.consume::<B>(&ops.node), DType::F32);
        if let ([Some(node)], Some(d_hidden)) = (ops.parents, ops.state) {
            grads.register::<B>(node.id, scaled::<B>(d_hidden, factors));
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: PackedTensor<Autodiff<B, C>>,
    labels: IntTensor<B>,
    cap: Option<f64>,
) -> FloatTensor<Autodiff<B, C>> {
    let weight = inner(weight);
    if hidden.is_tracked() {
        let (losses, d_hidden) = match cap {
            Some(cap) => capped::packed_reference_with_gradient::<B>(hidden.primitive, weight, labels, cap),
            None => B::packed_linear_cross_entropy_with_gradient(hidden.primitive, weight, labels),
        };
        return match PackedLinearCrossEntropy.prepare::<C>([hidden.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Some(d_hidden), losses),
            OpsKind::UnTracked(prep) => prep.finish(losses),
        };
    }
    let losses = match cap {
        Some(cap) => B::packed_capped_linear_cross_entropy(hidden.primitive, weight, labels, cap),
        None => B::packed_linear_cross_entropy(hidden.primitive, weight, labels),
    };
    match PackedLinearCrossEntropy.prepare::<C>([hidden.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(None, losses),
        OpsKind::UnTracked(prep) => prep.finish(losses),
    }
}
