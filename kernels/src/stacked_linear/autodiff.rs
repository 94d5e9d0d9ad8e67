//! The backward rule: keeps the weight, and the input or how to recompute it.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::GroupRows;
use crate::FusedBackend;

#[derive(Debug)]
struct StackedLinear;

/// What is kept.
#[derive(Debug, Clone)]
struct Kept<B: FusedBackend> {
    /// The node of the input, where the weight trains.
    x: Option<NodeId>,
    weight: FloatTensor<B>,
    rows: GroupRows,
}

impl<B: FusedBackend> Backward<B, 2> for StackedLinear {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Kept { x, weight, rows } = ops.state;
        let [x_node, weight_node] = ops.parents;
        if let (Some(node), Some(x)) = (weight_node, x) {
            let x = checkpointer.retrieve_node_output(x);
            grads.register::<B>(node.id, B::stacked_linear_backward_weight(x, grad.clone(), rows.clone()));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::stacked_linear_backward_input(grad, weight, rows));
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    rows: GroupRows,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::stacked_linear(x.primitive.clone(), weight.primitive.clone(), rows.clone());
    match StackedLinear.prepare::<C>([x.node.clone(), weight.node.clone()]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let kept = weight.is_tracked().then(|| prep.checkpoint(&x));
            prep.finish(Kept { x: kept, weight: weight.primitive, rows }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
