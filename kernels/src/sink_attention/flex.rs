//! The CPU kernel is that of attention.

use burn_flex::{Flex, FlexTensor};

use super::{SinkInputs, reference, reference_backward};
use crate::attention::flex::{compute, gradients};
use crate::attention::{AttentionOptions, Statistics};

/// The result.
pub(crate) fn forward(inputs: SinkInputs<Flex>, options: AttentionOptions) -> FlexTensor {
    let SinkInputs { query, key, value, segments, sinks } = &inputs;
    let computed = compute([query, key, value], segments.as_ref(), Some(sinks), options);
    computed.unwrap_or_else(|| reference::<Flex>(inputs, options))
}

/// Gradients for query, key and value; the probabilities are recomputed.
pub(crate) fn backward(
    inputs: SinkInputs<Flex>,
    _statistics: Option<Statistics<Flex>>,
    grad: FlexTensor,
    options: AttentionOptions,
) -> [FlexTensor; 3] {
    let SinkInputs { query, key, value, segments, sinks } = &inputs;
    let computed = gradients([query, key, value], segments.as_ref(), Some(sinks), &grad, options);
    computed.unwrap_or_else(|| reference_backward::<Flex>(inputs, grad, options))
}
