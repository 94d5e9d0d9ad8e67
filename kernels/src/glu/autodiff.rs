//! The backward rule: keeps gate and up, never the product, which a balanced strategy recomputes where a later backward needs it.

use std::marker::PhantomData;

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::Activation;
use crate::FusedBackend;

#[derive(Debug)]
struct Glu;

impl<B: FusedBackend> Backward<B, 2> for Glu {
    type State = (FloatTensor<B>, FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up, activation) = ops.state;
        let (dgate, dup) = B::glu_backward(gate, up, grad, activation);
        let [gate_node, up_node] = ops.parents;
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, dup);
        }
    }
}

/// Recomputes the product.
#[derive(Debug)]
struct Recompute<B> {
    gate: NodeId,
    up: NodeId,
    activation: Activation,
    backend: PhantomData<B>,
}

impl<B: FusedBackend> RetroForward for Recompute<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let gate = states.get_state::<FloatTensor<B>>(&self.gate);
        let up = states.get_state::<FloatTensor<B>>(&self.up);
        states.save(out_node, B::glu(gate, up, self.activation));
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    gate: FloatTensor<Autodiff<B, C>>,
    up: FloatTensor<Autodiff<B, C>>,
    activation: Activation,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::glu(gate.primitive.clone(), up.primitive.clone(), activation);
    let recompute = Recompute::<B> { gate: gate.node.id, up: up.node.id, activation, backend: PhantomData };
    let prepared = Glu.prepare::<C>([gate.node.clone(), up.node.clone()]).memory_bound();
    match prepared.retro_forward(recompute).parents([&gate, &up]).stateful() {
        OpsKind::Tracked(prep) => prep.finish((gate.primitive, up.primitive, activation), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
