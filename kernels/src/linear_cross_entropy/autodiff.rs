//! The backward rule: the gradients are taken in the forward pass, so only they are kept.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: FusedBackend> Backward<B, 2> for LinearCrossEntropy {
    type State = (FloatTensor<B>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let factor = typed::<B, 1>(grads.consume::<B>(&ops.node)).reshape([1, 1]);
        let (d_hidden, d_weight) = ops.state;
        let [hidden_node, weight_node] = ops.parents;
        if let Some(node) = hidden_node {
            grads.register::<B>(node.id, scaled::<B>(d_hidden, factor.clone()));
        }
        if let (Some(node), Some(d_weight)) = (weight_node, d_weight) {
            grads.register::<B>(node.id, scaled::<B>(d_weight, factor));
        }
    }
}

/// The gradient times the factor, which a 16-bit dtype might not hold.
fn scaled<B: FusedBackend>(gradient: FloatTensor<B>, factor: Tensor<B, 2>) -> FloatTensor<B> {
    let dtype = gradient.dtype();
    raw((typed::<B, 2>(gradient).cast(DType::F32) * factor).cast(dtype))
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    labels: IntTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let weight_gradient = weight.is_tracked();
    match LinearCrossEntropy.prepare::<C>([hidden.node, weight.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (losses, d_hidden, d_weight) =
                B::linear_cross_entropy_with_gradient(hidden.primitive, weight.primitive, labels, weight_gradient);
            prep.finish((d_hidden, d_weight), losses)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::linear_cross_entropy(hidden.primitive, weight.primitive, labels)),
    }
}
