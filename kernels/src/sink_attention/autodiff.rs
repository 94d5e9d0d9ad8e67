//! The backward rule: keeps the inputs, never the scores.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::SinkInputs;
use crate::FusedBackend;
use crate::attention::{AttentionOptions, Statistics};

#[derive(Debug)]
struct SinkAttention;

impl<B: FusedBackend> Backward<B, 3> for SinkAttention {
    type State = (SinkInputs<B>, Option<Statistics<B>>, AttentionOptions);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (inputs, statistics, options) = ops.state;
        let gradients = B::sink_attention_backward(inputs, statistics, grad, options);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(crate) fn forward<B: FusedBackend, C: CheckpointStrategy>(
    inputs: SinkInputs<Autodiff<B, C>>,
    options: AttentionOptions,
) -> FloatTensor<Autodiff<B, C>> {
    let SinkInputs { query, key, value, segments, sinks } = inputs;
    let nodes = [query.node.clone(), key.node.clone(), value.node.clone()];
    let inputs = SinkInputs::<B> {
        query: query.primitive,
        key: key.primitive,
        value: value.primitive,
        segments,
        sinks: sinks.primitive,
    };
    match SinkAttention.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, statistics) = B::sink_attention_for_backward(inputs.clone(), options);
            prep.finish((inputs, statistics, options), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::sink_attention(inputs, options)),
    }
}
