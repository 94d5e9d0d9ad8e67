//! The backward rule: keeps the narrow `x Aᵀ`, and `x`, which neighbouring layers share, or how to recompute it.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::LoraSaved;
use crate::FusedBackend;
use crate::dropout::Dropout;
use crate::linear::packed::inner;
use crate::packed::PackedTensor;

#[derive(Debug)]
struct LoraLinear;

/// A frozen weight, as it is stored.
#[derive(Debug, Clone)]
enum Base<B: FusedBackend> {
    Dense(FloatTensor<B>),
    Packed(PackedTensor<B>),
}

/// [`LoraSaved`], with the node of `x` in place of its tensor.
#[derive(Debug, Clone)]
struct Kept<B: FusedBackend> {
    x: NodeId,
    weight: Base<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    hidden: FloatTensor<B>,
    scale: f64,
    dropout: Option<Dropout>,
}

impl<B: FusedBackend> Backward<B, 3> for LoraLinear {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node] = ops.parents;
        let Kept { x, weight, lora_a, lora_b, hidden, scale, dropout } = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        let gradients = match weight {
            Base::Dense(weight) => {
                let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout };
                B::lora_linear_backward(saved, grad, x_node.is_some())
            }
            Base::Packed(weight) => {
                let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout };
                B::packed_lora_linear_backward(saved, grad, x_node.is_some())
            }
        };
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

/// The result, twice: the narrow product has no gradient, and only the backward on the inner backend reads it.
pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    lora_a: FloatTensor<Autodiff<B, C>>,
    lora_b: FloatTensor<Autodiff<B, C>>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    assert!(!weight.is_tracked(), "lora_linear: the base weight is frozen; train it through `linear`");
    record::<B, C>(x, Base::Dense(weight.primitive), [lora_a, lora_b], scale, dropout)
}

/// The same on a packed weight.
pub(crate) fn packed_forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: PackedTensor<Autodiff<B, C>>,
    lora_a: FloatTensor<Autodiff<B, C>>,
    lora_b: FloatTensor<Autodiff<B, C>>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    record::<B, C>(x, Base::Packed(inner(weight)), [lora_a, lora_b], scale, dropout)
}

fn record<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: Base<B>,
    [lora_a, lora_b]: [FloatTensor<Autodiff<B, C>>; 2],
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let nodes = [x.node.clone(), lora_a.node, lora_b.node];
    let (lora_a, lora_b) = (lora_a.primitive, lora_b.primitive);
    let inputs = (x.primitive.clone(), lora_a.clone(), lora_b.clone());
    let (y, hidden) = match weight.clone() {
        Base::Dense(weight) => B::lora_linear(inputs.0, weight, inputs.1, inputs.2, scale, dropout),
        Base::Packed(weight) => B::packed_lora_linear(inputs.0, weight, inputs.1, inputs.2, scale, dropout),
    };
    let y = match LoraLinear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let x = prep.checkpoint(&x);
            prep.finish(Kept { x, weight, lora_a, lora_b, hidden, scale, dropout }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    (y.clone(), y)
}
