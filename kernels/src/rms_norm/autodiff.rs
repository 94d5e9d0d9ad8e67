//! The backward rule: keeps the input, which the residual stream keeps anyway. A balanced strategy recomputes the norm from it
//! where a later backward needs it.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, ComputePropertyDone, Init, Ops, OpsKind, OpsPrep};
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;

#[derive(Debug)]
struct RmsNorm;

impl<B: FusedBackend> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let [x_node, weight_node] = ops.parents;
        let (dx, dw) = B::rms_norm_backward(x, weight, grad, None, epsilon, weight_node.is_some());
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        if let (Some(node), Some(dw)) = (weight_node, dw) {
            grads.register::<B>(node.id, dw);
        }
    }
}

/// Recomputes the norm.
#[derive(Debug)]
struct Recompute<B: FusedBackend> {
    x: NodeId,
    weight: FloatTensor<B>,
    epsilon: f64,
}

impl<B: FusedBackend> RetroForward for Recompute<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let x = states.get_state::<FloatTensor<B>>(&self.x);
        states.save(out_node, B::rms_norm(x, self.weight.clone(), self.epsilon));
    }
}

/// Lets the norm be recomputed, unless its weight trains: that would need one more state.
fn recomputed<B: FusedBackend, C: CheckpointStrategy, N: Backward<B, 2>>(
    prep: OpsPrep<N, B, N::State, C, 2, Init>,
    x: &FloatTensor<Autodiff<B, C>>,
    weight: &FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> OpsPrep<N, B, N::State, C, 2, ComputePropertyDone> {
    if weight.is_tracked() {
        return prep.compute_bound();
    }
    let recompute = Recompute::<B> { x: x.node.id, weight: weight.primitive.clone(), epsilon };
    prep.memory_bound().retro_forward(recompute).parents([x])
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::rms_norm(x.primitive.clone(), weight.primitive.clone(), epsilon);
    let prep = RmsNorm.prepare::<C>([x.node.clone(), weight.node.clone()]);
    match recomputed(prep, &x, &weight, epsilon).stateful() {
        OpsKind::Tracked(prep) => prep.finish((x.primitive, weight.primitive, epsilon), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

/// The sum of `N` tensors, whose gradient goes to each.
#[derive(Debug)]
struct Sum;

impl<B: FusedBackend, const N: usize> Backward<B, N> for Sum {
    type State = ();

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, grad.clone());
        }
    }
}

/// The norm of a sum. By the time of its backward the sum already has the gradient of the residual stream, which the norm's own
/// kernel adds.
#[derive(Debug)]
struct NormOfSum;

impl<B: FusedBackend> Backward<B, 2> for NormOfSum {
    type State = (FloatTensor<Autodiff<B>>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (sum, weight, epsilon) = ops.state;
        let [sum_node, weight_node] = ops.parents;
        let residual = sum_node.as_ref().and_then(|_| grads.remove::<B>(&sum));
        let (dx, dw) = B::rms_norm_backward(sum.primitive, weight, grad, residual, epsilon, weight_node.is_some());
        if let Some(node) = sum_node {
            grads.register::<B>(node.id, dx);
        }
        if let (Some(node), Some(dw)) = (weight_node, dw) {
            grads.register::<B>(node.id, dw);
        }
    }
}

pub(crate) fn add_forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    residual: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let (sum, y) = B::add_rms_norm(x.primitive, residual.primitive, weight.primitive.clone(), epsilon);
    let sum = match Sum.prepare::<C>([x.node, residual.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((), sum),
        OpsKind::UnTracked(prep) => prep.finish(sum),
    };
    let y = norm_of_sum::<B, C>(&sum, weight, epsilon, y);
    (sum, y)
}

pub(crate) fn fork_forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let y = B::rms_norm(x.primitive.clone(), weight.primitive.clone(), epsilon);
    // A node of its own, so that the gradient of its other uses does not reach `x` before the norm's rule sees it.
    let sum = match Sum.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((), x.primitive),
        OpsKind::UnTracked(prep) => prep.finish(x.primitive),
    };
    let y = norm_of_sum::<B, C>(&sum, weight, epsilon, y);
    (sum, y)
}

/// The node of `y`, the norm of a sum.
fn norm_of_sum<B: FusedBackend, C: CheckpointStrategy>(
    sum: &FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
    y: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let prep = NormOfSum.prepare::<C>([sum.node.clone(), weight.node.clone()]);
    match recomputed(prep, sum, &weight, epsilon).stateful() {
        OpsKind::Tracked(prep) => prep.finish((sum.clone(), weight.primitive, epsilon), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
