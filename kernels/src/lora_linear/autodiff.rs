//! The backward rule: keeps `x`, which neighbouring layers share; `x Aᵀ` is computed anew.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;

#[derive(Debug)]
struct LoraLinear;

#[derive(Debug, Clone)]
struct Saved<B: FusedBackend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    scale: f64,
}

impl<B: FusedBackend> Backward<B, 3> for LoraLinear {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, lora_a, lora_b, scale } = ops.state;
        let [x_node, a_node, b_node] = ops.parents;
        let (dx, d_a, d_b) = B::lora_linear_backward(x, weight, lora_a, lora_b, grad, scale, x_node.is_some());
        if let (Some(node), Some(dx)) = (x_node, dx) {
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = a_node {
            grads.register::<B>(node.id, d_a);
        }
        if let Some(node) = b_node {
            grads.register::<B>(node.id, d_b);
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
    let y = B::lora_linear(x.clone(), weight.clone(), lora_a.clone(), lora_b.clone(), scale);
    match LoraLinear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved { x, weight, lora_a, lora_b, scale }, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
