//! The backward rule: keeps the handles of the weights, and nothing of the input.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::{Group, GroupWeight, RawGroup, reference};
use crate::FusedBackend;
use crate::linear::packed::inner;

#[derive(Debug)]
struct GroupedLinear;

impl<B: FusedBackend> Backward<B, 1> for GroupedLinear {
    type State = Vec<RawGroup<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::grouped_linear_backward_input(grad, ops.state));
        }
    }
}

/// Where a weight trains, each product has its own rule.
pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    groups: Vec<RawGroup<Autodiff<B, C>>>,
) -> FloatTensor<Autodiff<B, C>> {
    let trains = |group: &RawGroup<Autodiff<B, C>>| match &group.weight {
        GroupWeight::Dense(weight) => weight.is_tracked(),
        GroupWeight::Packed(_) => false,
    };
    if groups.iter().any(trains) {
        return reference::<Autodiff<B, C>>(x, groups);
    }
    let groups: Vec<RawGroup<B>> = groups
        .into_iter()
        .map(|Group { rows, weight }| Group {
            rows,
            weight: match weight {
                GroupWeight::Dense(weight) => GroupWeight::Dense(weight.primitive),
                GroupWeight::Packed(weight) => GroupWeight::Packed(inner(weight)),
            },
        })
        .collect();
    let y = B::grouped_linear(x.primitive, groups.clone());
    match GroupedLinear.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(groups, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
