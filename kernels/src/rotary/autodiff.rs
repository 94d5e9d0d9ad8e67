//! The backward rule: the gradient turns the other way; nothing of the input is kept.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;

#[derive(Debug)]
struct Rotary;

impl<B: FusedBackend> Backward<B, 1> for Rotary {
    type State = (FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin, inverse) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::rotary(grad, cos, sin, !inverse));
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    cos: FloatTensor<Autodiff<B, C>>,
    sin: FloatTensor<Autodiff<B, C>>,
    inverse: bool,
) -> FloatTensor<Autodiff<B, C>> {
    let (cos, sin) = (cos.primitive, sin.primitive);
    let y = B::rotary(x.primitive, cos.clone(), sin.clone(), inverse);
    match Rotary.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((cos, sin, inverse), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
