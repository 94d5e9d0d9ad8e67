//! The backward rule: keeps the input, which the residual stream keeps anyway.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
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

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::rms_norm(x.primitive.clone(), weight.primitive.clone(), epsilon);
    match RmsNorm.prepare::<C>([x.node.clone(), weight.node.clone()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((x.primitive, weight.primitive, epsilon), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

/// A node whose tensor was computed elsewhere: the sum of two tensors, whose gradient goes to both.
#[derive(Debug)]
struct Sum;

impl<B: FusedBackend> Backward<B, 2> for Sum {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, grad.clone());
        }
    }
}

/// The norm of a sum. The residual stream has given the sum its gradient by the time that the norm's turn comes; the two are
/// added in the norm's own kernel.
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
    let y = match NormOfSum.prepare::<C>([sum.node.clone(), weight.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((sum.clone(), weight.primitive, epsilon), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    (sum, y)
}
