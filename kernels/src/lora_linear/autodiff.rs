//! The backward rule: keeps the narrow `x Aᵀ`, and `x`, which neighbouring layers share, or how to recompute it.
//!
//! Of a layer whose result nobody reads it keeps `x` only, and computes `x Aᵀ` itself.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use super::{LoraSaved, Unread};
use crate::FusedBackend;
use crate::dropout::Dropout;
use crate::grouped_linear::GroupWeight;
use crate::linear::packed::inner;
use crate::packed::PackedTensor;

/// Rows up to which layers have routes of their own, where `x Aᵀ` by itself is rounded in another way.
const FEW_ROWS: usize = 8;

#[derive(Debug)]
struct LoraLinear;

/// A frozen weight, as it is stored.
type Base<B> = GroupWeight<FloatTensor<B>, PackedTensor<B>>;

/// [`LoraSaved`], with the node of `x` in place of its tensor.
#[derive(Debug, Clone)]
struct Kept<B: FusedBackend> {
    x: NodeId,
    weight: Base<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    hidden: Option<FloatTensor<B>>,
    scale: f64,
    dropout: Option<Dropout>,
}

impl<B: FusedBackend> Backward<B, 3> for LoraLinear {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node] = ops.parents;
        let Kept { x, weight, lora_a, lora_b, hidden, scale, dropout } = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let hidden = hidden.unwrap_or_else(|| B::lora_hidden(x.clone(), lora_a.clone(), scale, dropout));
        let gradients = match weight {
            GroupWeight::Dense(weight) => {
                let saved = LoraSaved { x, weight, lora_a, lora_b, hidden, scale, dropout };
                B::lora_linear_backward(saved, grad, x_node.is_some())
            }
            GroupWeight::Packed(weight) => {
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
    record::<B, C>(x, GroupWeight::Dense(weight.primitive), [lora_a, lora_b], scale, dropout)
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
    record::<B, C>(x, GroupWeight::Packed(inner(weight)), [lora_a, lora_b], scale, dropout)
}

/// A layer whose result nobody reads: a zero for all elements, so that it takes no memory.
pub(crate) fn unread<B: FusedBackend, C: CheckpointStrategy>(
    layer: Unread<FloatTensor<Autodiff<B, C>>, PackedTensor<Autodiff<B, C>>>,
) -> FloatTensor<Autodiff<B, C>> {
    let Unread { x, weight, lora_a, lora_b, scale, dropout } = layer;
    let is_read = !B::OWN_GRADIENTS || x.shape()[0] <= FEW_ROWS;
    let (weight, outputs) = match weight {
        GroupWeight::Dense(weight) if is_read => {
            return <Autodiff<B, C> as FusedBackend>::lora_linear(x, weight, lora_a, lora_b, scale, dropout).0;
        }
        GroupWeight::Packed(weight) if is_read => {
            return packed_forward::<B, C>(x, weight, lora_a, lora_b, scale, dropout).0;
        }
        GroupWeight::Dense(weight) => {
            assert!(!weight.is_tracked(), "unread_lora_linear: the base weight is frozen");
            let outputs = weight.shape()[0];
            (GroupWeight::Dense(weight.primitive), outputs)
        }
        GroupWeight::Packed(weight) => {
            let outputs = weight.dims()[0];
            (GroupWeight::Packed(inner(weight)), outputs)
        }
    };
    let (device, dtype) = (B::float_device(&x.primitive), x.dtype());
    let zero = B::float_zeros(Shape::from([1, 1]), &device, dtype.into());
    let y = B::float_expand(zero, Shape::from([x.shape()[0], outputs]));
    finish::<B, C>(x, weight, [lora_a, lora_b], scale, dropout, (y, None))
}

fn record<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: Base<B>,
    [lora_a, lora_b]: [FloatTensor<Autodiff<B, C>>; 2],
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let inputs = (x.primitive.clone(), lora_a.primitive.clone(), lora_b.primitive.clone());
    let (y, hidden) = match weight.clone() {
        GroupWeight::Dense(weight) => B::lora_linear(inputs.0, weight, inputs.1, inputs.2, scale, dropout),
        GroupWeight::Packed(weight) => B::packed_lora_linear(inputs.0, weight, inputs.1, inputs.2, scale, dropout),
    };
    let y = finish::<B, C>(x, weight, [lora_a, lora_b], scale, dropout, (y, Some(hidden)));
    (y.clone(), y)
}

fn finish<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: Base<B>,
    [lora_a, lora_b]: [FloatTensor<Autodiff<B, C>>; 2],
    scale: f64,
    dropout: Option<Dropout>,
    (y, hidden): (FloatTensor<B>, Option<FloatTensor<B>>),
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = [x.node.clone(), lora_a.node, lora_b.node];
    let (lora_a, lora_b) = (lora_a.primitive, lora_b.primitive);
    match LoraLinear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let x = prep.checkpoint(&x);
            prep.finish(Kept { x, weight, lora_a, lora_b, hidden, scale, dropout }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
