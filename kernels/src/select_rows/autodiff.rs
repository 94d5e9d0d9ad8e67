//! The backward rule: keeps only the positions.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::TensorMetadata;
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::FusedBackend;

#[derive(Debug)]
struct SelectRows;

impl<B: FusedBackend> Backward<B, 1> for SelectRows {
    type State = (IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (positions, rows) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::select_rows_backward(grad, positions, rows));
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    positions: IntTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let rows = x.primitive.shape()[0];
    let y = B::select_rows(x.primitive, positions.clone());
    match SelectRows.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((positions, rows), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
