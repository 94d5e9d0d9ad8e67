//! The backward rule: keeps `x`, which neighbouring layers share, and the narrow `x Aᵀ`.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::LoraSaved;
use crate::FusedBackend;

#[derive(Debug)]
struct LoraLinear;

impl<B: FusedBackend> Backward<B, 3> for LoraLinear {
    type State = LoraSaved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node] = ops.parents;
        let gradients = B::lora_linear_backward(ops.state, grad, x_node.is_some());
        if let (Some(node), Some(dx)) = (x_node, gradients.x) {
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = a_node {
            grads.register::<B>(node.id, gradients.lora_a);
        }
        if let Some(node) = b_node {
            grads.register::<B>(node.id, gradients.lora_b);
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    lora_a: FloatTensor<Autodiff<B, C>>,
    lora_b: FloatTensor<Autodiff<B, C>>,
    scale: f64,
) -> FloatTensor<Autodiff<B, C>> {
    assert!(!weight.is_tracked(), "lora_linear: the base weight is frozen; train it through `linear`");
    let nodes = [x.node, lora_a.node, lora_b.node];
    let (x, weight, lora_a, lora_b) = (x.primitive, weight.primitive, lora_a.primitive, lora_b.primitive);
    let (y, hidden) = B::lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), scale);
    match LoraLinear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(LoraSaved { x, weight, lora_a, lora_b, hidden, scale }, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
