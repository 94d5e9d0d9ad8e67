//! The backward rule: the same operation on the gradient. It keeps only the key; a balanced strategy recomputes the result where
//! a later backward needs it.

use std::marker::PhantomData;

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::Dropout;
use crate::FusedBackend;

#[derive(Debug)]
struct DropoutRule;

impl<B: FusedBackend> Backward<B, 1> for DropoutRule {
    type State = Dropout;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::dropout(grad, ops.state));
        }
    }
}

/// Recomputes the result.
#[derive(Debug)]
struct Recompute<B> {
    x: NodeId,
    dropout: Dropout,
    backend: PhantomData<B>,
}

impl<B: FusedBackend> RetroForward for Recompute<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let x = states.get_state::<FloatTensor<B>>(&self.x);
        states.save(out_node, B::dropout(x, self.dropout));
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    dropout: Dropout,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::dropout(x.primitive.clone(), dropout);
    let recompute = Recompute::<B> { x: x.node.id, dropout, backend: PhantomData };
    let prepared = DropoutRule.prepare::<C>([x.node.clone()]).memory_bound();
    match prepared.retro_forward(recompute).parents([&x]).stateful() {
        OpsKind::Tracked(prep) => prep.finish(dropout, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
