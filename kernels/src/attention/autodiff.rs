//! The backward rule: keeps query, key and value, never the scores.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::{AttentionOptions, Statistics};
use crate::FusedBackend;

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct Saved<B: FusedBackend> {
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    segments: Option<IntTensor<B>>,
    statistics: Option<Statistics<B>>,
    options: AttentionOptions,
}

impl<B: FusedBackend> Backward<B, 3> for Attention {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Saved { query, key, value, segments, statistics, options } = ops.state;
        let gradients = B::attention_backward(query, key, value, segments, statistics, grad, options);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    query: FloatTensor<Autodiff<B, C>>,
    key: FloatTensor<Autodiff<B, C>>,
    value: FloatTensor<Autodiff<B, C>>,
    segments: Option<IntTensor<B>>,
    options: AttentionOptions,
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = [query.node.clone(), key.node.clone(), value.node.clone()];
    let (query, key, value) = (query.primitive, key.primitive, value.primitive);
    match Attention.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let inputs = (query.clone(), key.clone(), value.clone(), segments.clone());
            let (output, statistics) = B::attention_for_backward(inputs.0, inputs.1, inputs.2, inputs.3, options);
            prep.finish(Saved { query, key, value, segments, statistics, options }, output)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::segment_attention(query, key, value, segments, options)),
    }
}
