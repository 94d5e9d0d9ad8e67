//! The backward rule: keeps the weight's handle and, only where the weight trains, `x` or how to recompute it.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;

#[derive(Debug)]
struct Linear;

impl<B: FusedBackend> Backward<B, 2> for Linear {
    type State = (Option<NodeId>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let [x_node, weight_node] = ops.parents;
        if let (Some(node), Some(x)) = (weight_node, x) {
            let x = checkpointer.retrieve_node_output(x);
            grads.register::<B>(node.id, B::linear_backward_weight(x, grad.clone()));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::linear_backward_input(grad, weight));
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::dense_linear(x.primitive.clone(), weight.primitive.clone());
    match Linear.prepare::<C>([x.node.clone(), weight.node.clone()]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let kept = weight.is_tracked().then(|| prep.checkpoint(&x));
            prep.finish((kept, weight.primitive), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
