//! The backward rule: keeps the input.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;

#[derive(Debug)]
struct LayerNorm;

impl<B: FusedBackend> Backward<B, 3> for LayerNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let [x_node, weight_node, bias_node] = ops.parents;
        let weight_gradients = weight_node.is_some() || bias_node.is_some();
        let (dx, gradients) = B::row_layer_norm_backward(x, weight, grad, epsilon, weight_gradients);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        for (node, gradient) in [weight_node, bias_node].into_iter().zip(gradients.into_iter().flatten()) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    bias: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::row_layer_norm(x.primitive.clone(), weight.primitive.clone(), bias.primitive, epsilon);
    match LayerNorm.prepare::<C>([x.node, weight.node, bias.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((x.primitive, weight.primitive, epsilon), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
