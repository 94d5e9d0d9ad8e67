//! The backward rules: they keep no tensor.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::FusedBackend;

#[derive(Debug)]
struct View;

impl<B: FusedBackend> Backward<B, 1> for View {
    /// The shape of the input.
    type State = Shape;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::float_reshape(grad, ops.state));
        }
    }
}

pub(crate) fn view<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    shape: Shape,
) -> FloatTensor<Autodiff<B, C>> {
    let own = x.primitive.shape();
    let y = B::view(x.primitive, shape);
    match View.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(own, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

#[derive(Debug)]
struct Scale;

impl<B: FusedBackend> Backward<B, 1> for Scale {
    type State = f64;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::scale(grad, ops.state));
        }
    }
}

pub(crate) fn scale<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    factor: f64,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::scale(x.primitive, factor);
    match Scale.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(factor, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

#[derive(Debug)]
struct AddBias;

impl<B: FusedBackend> Backward<B, 2> for AddBias {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, bias] = ops.parents;
        if let Some(node) = bias {
            let features = grad.shape()[1];
            let sums = B::float_sum_dim(grad.clone(), 0);
            grads.register::<B>(node.id, B::float_reshape(sums, Shape::new([features])));
        }
        if let Some(node) = x {
            grads.register::<B>(node.id, grad);
        }
    }
}

pub(crate) fn add_bias<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    bias: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let y = B::add_bias(x.primitive, bias.primitive);
    match AddBias.prepare::<C>([x.node, bias.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
