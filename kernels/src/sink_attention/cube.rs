//! On GPUs, the kernels of attention, whose results and sums are then scaled.

use burn_cubecl::tensor::CubeTensor;

use super::{SinkInputs, reference, reference_backward, with_sinks};
use crate::attention::{AttentionOptions, Statistics};
use crate::cube::BackendOn;
use crate::cube::launch::same_float;
use crate::runtime::KernelRuntime;

/// The result, with what the backward needs of it.
pub(crate) fn for_backward<R: KernelRuntime, B: BackendOn<R>>(
    inputs: SinkInputs<B>,
    options: AttentionOptions,
) -> (CubeTensor<R>, Option<Statistics<B>>) {
    let SinkInputs { query, key, value, segments, sinks } = inputs.clone();
    match B::attention_for_backward(query, key, value, segments, options) {
        (_, Some(statistics)) => {
            let statistics = with_sinks::<B>(statistics, sinks);
            (statistics.output.clone(), Some(statistics))
        }
        (_, None) => (reference::<B>(inputs, options), None),
    }
}

/// The result.
pub(crate) fn forward<R: KernelRuntime, B: BackendOn<R>>(inputs: SinkInputs<B>, options: AttentionOptions) -> CubeTensor<R> {
    for_backward::<R, B>(inputs, options).0
}

/// Gradients for query, key and value. The kernels compute probabilities from the log-sum-exp, which counts the sinks.
pub(crate) fn backward<R: KernelRuntime, B: BackendOn<R>>(
    inputs: SinkInputs<B>,
    statistics: Option<Statistics<B>>,
    grad: CubeTensor<R>,
    options: AttentionOptions,
) -> [CubeTensor<R>; 3] {
    match statistics {
        Some(statistics) if same_float(&[&inputs.query, &grad]) => {
            let SinkInputs { query, key, value, segments, .. } = inputs;
            B::attention_backward(query, key, value, segments, Some(statistics), grad, options)
        }
        _ => reference_backward::<B>(inputs, grad, options),
    }
}
