//! The backward rule: the gradients are rotated back, in one launch; nothing of the inputs is kept.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::reference;
use crate::FusedBackend;

/// The gradients of both rotated tensors, while they wait for each other.
type Waiting<B> = Arc<Mutex<[Option<FloatTensor<B>>; 2]>>;

/// One of both rotated tensors, by its index. Its parent [`Rotary`] runs once both have run.
#[derive(Debug)]
struct Rotated;

impl<B: FusedBackend> Backward<B, 1> for Rotated {
    type State = (Waiting<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (waiting, index) = ops.state;
        waiting.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(grads.consume::<B>(&ops.node));
    }
}

#[derive(Debug)]
struct Rotary;

impl<B: FusedBackend> Backward<B, 2> for Rotary {
    type State = (Waiting<B>, FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (waiting, cos, sin, inverse) = ops.state;
        let gradients = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let rotated = match gradients {
            [Some(query), Some(key)] => B::rotary([query, key], cos, sin, !inverse).map(Some),
            // One of the two had no part in the loss.
            lone => lone.map(|grad| grad.map(|grad| reference::<B>(grad, cos.clone(), sin.clone(), !inverse))),
        };
        for (node, grad) in ops.parents.into_iter().zip(rotated) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    heads: [FloatTensor<Autodiff<B, C>>; 2],
    cos: FloatTensor<Autodiff<B, C>>,
    sin: FloatTensor<Autodiff<B, C>>,
    inverse: bool,
) -> [FloatTensor<Autodiff<B, C>>; 2] {
    let (cos, sin, waiting) = (cos.primitive, sin.primitive, Waiting::<B>::default());
    let nodes = heads.each_ref().map(|x| x.node.clone());
    let [query, key] = B::rotary(heads.map(|x| x.primitive), cos.clone(), sin.clone(), inverse);
    let both: FloatTensor<Autodiff<B, C>> = match Rotary.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((waiting.clone(), cos, sin, inverse), query),
        OpsKind::UnTracked(prep) => prep.finish(query),
    };
    let rotated = |index, x| {
        let prep = Rotated.prepare::<C>([both.node.clone()]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((waiting.clone(), index), x),
            OpsKind::UnTracked(prep) => prep.finish(x),
        }
    };
    [rotated(0, both.primitive.clone()), rotated(1, key)]
}
