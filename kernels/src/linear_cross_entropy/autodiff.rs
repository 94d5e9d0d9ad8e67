//! The backward rule: the forward computes the gradients for the hidden states, so only they are kept. A token's loss depends on
//! its own row alone, so any factors can be applied later. The gradient for a weight sums over rows, and must wait for them.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Tensor, TensorMetadata};

use super::capped;
use crate::FusedBackend;
use crate::primitive::{cast, raw, typed};

#[derive(Debug)]
struct LinearCrossEntropy;

/// The inputs, for the gradient for the weight.
#[derive(Debug, Clone)]
struct Inputs<B: FusedBackend> {
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: IntTensor<B>,
    /// The soft-cap of the logits.
    cap: Option<f64>,
}

impl<B: FusedBackend> Backward<B, 2> for LinearCrossEntropy {
    /// The gradients for the hidden states, and the inputs, each where needed.
    type State = (Option<FloatTensor<B>>, Option<Inputs<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let factors = cast::<B>(grads.consume::<B>(&ops.node), DType::F32);
        let (d_hidden, inputs) = ops.state;
        let [hidden_node, weight_node] = ops.parents;
        if let (Some(node), Some(d_hidden)) = (hidden_node, d_hidden) {
            grads.register::<B>(node.id, scaled::<B>(d_hidden, factors.clone()));
        }
        if let (Some(node), Some(Inputs { hidden, weight, labels, cap })) = (weight_node, inputs) {
            let gradient = match cap {
                Some(cap) => capped::reference_backward_weight::<B>(hidden, weight, labels, factors, cap),
                None => B::linear_cross_entropy_backward_weight(hidden, weight, labels, factors),
            };
            grads.register::<B>(node.id, gradient);
        }
    }
}

/// Every row of the gradient times its factor, in f32: a 16-bit dtype might not hold the factors.
pub(super) fn scaled<B: FusedBackend>(gradient: FloatTensor<B>, factors: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gradient.dtype();
    let factors: Tensor<B, 2> = typed::<B, 1>(factors).unsqueeze_dim(1);
    raw((typed::<B, 2>(gradient).cast(DType::F32) * factors).cast(dtype))
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    labels: IntTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    recorded::<B, C>(hidden, weight, labels, None)
}

pub(crate) fn capped_forward<B: FusedBackend, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    labels: IntTensor<B>,
    cap: f64,
) -> FloatTensor<Autodiff<B, C>> {
    recorded::<B, C>(hidden, weight, labels, Some(cap))
}

fn recorded<B: FusedBackend, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    labels: IntTensor<B>,
    cap: Option<f64>,
) -> FloatTensor<Autodiff<B, C>> {
    let (hidden_tracked, weight_tracked) = (hidden.is_tracked(), weight.is_tracked());
    let prepared = LinearCrossEntropy.prepare::<C>([hidden.node, weight.node]).compute_bound();
    let (hidden, weight) = (hidden.primitive, weight.primitive);
    let inputs = weight_tracked.then(|| {
        let (hidden, weight, labels) = (hidden.clone(), weight.clone(), labels.clone());
        Inputs::<B> { hidden, weight, labels, cap }
    });
    let (losses, d_hidden) = if hidden_tracked {
        let (losses, d_hidden) = match cap {
            Some(cap) => capped::reference_with_gradient::<B>(hidden, weight, labels, cap),
            None => B::linear_cross_entropy_with_gradient(hidden, weight, labels),
        };
        (losses, Some(d_hidden))
    } else {
        let losses = match cap {
            Some(cap) => B::capped_linear_cross_entropy(hidden, weight, labels, cap),
            None => B::linear_cross_entropy(hidden, weight, labels),
        };
        (losses, None)
    };
    match prepared.stateful() {
        OpsKind::Tracked(prep) => prep.finish((d_hidden, inputs), losses),
        OpsKind::UnTracked(prep) => prep.finish(losses),
    }
}
