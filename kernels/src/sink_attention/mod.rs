//! Attention with sinks: a score of each head that takes part in the softmax, but has no value.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
#[cfg(test)]
mod tests;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor};

use crate::FusedBackend;
use crate::attention::{self, AttentionOptions, Statistics};
use crate::primitive::{raw, typed};

/// The tensors of attention with sinks, see [`sink_attention()`].
#[derive(Debug, Clone)]
pub struct SinkInputs<B: Backend> {
    /// `[batch, queries, heads, head_dim]`.
    pub query: FloatTensor<B>,
    /// `[batch, keys, key_value_heads, head_dim]`.
    pub key: FloatTensor<B>,
    /// As the key.
    pub value: FloatTensor<B>,
    /// `[batch, keys]`.
    pub segments: Option<IntTensor<B>>,
    /// `[heads]`, f32.
    pub sinks: FloatTensor<B>,
}

/// [`attention()`](crate::attention()) with sinks: each row of scores has one more, that of its head, whose share of the softmax is
/// dropped. Sinks have no gradient.
///
/// # Shapes
/// As [`attention()`](crate::attention()); `sinks` `[heads]`.
///
/// # Precision
/// Scores, softmax and sinks are f32.
///
/// # Panics
/// As [`attention()`](crate::attention()), and when there is not one sink a head.
///
/// # Source
/// Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"; `eager_attention_forward` of gpt-oss in transformers 5.
pub fn sink_attention<B: FusedBackend>(
    query: Tensor<B, 4>,
    [key, value]: [Tensor<B, 4>; 2],
    segments: Option<Tensor<B, 2, Int>>,
    sinks: Tensor<B, 1>,
    options: AttentionOptions,
) -> Tensor<B, 4> {
    attention::check([&query, &key, &value], segments.as_ref());
    assert_eq!(sinks.dims(), [query.dims()[2]], "sink_attention: expected one sink a head");
    let inputs = SinkInputs {
        query: raw(query),
        key: raw(key),
        value: raw(value),
        segments: segments.map(Tensor::into_primitive),
        sinks: raw(sinks.cast(DType::F32)),
    };
    typed(B::sink_attention(inputs, options))
}

/// The composed forward.
///
/// # Panics
/// If the device can't allocate the scores, `[batch, heads, queries, keys]` in f32.
pub fn reference<B: FusedBackend>(inputs: SinkInputs<B>, options: AttentionOptions) -> FloatTensor<B> {
    let SinkInputs { query, key, value, segments, sinks } = inputs;
    attention::composed::<B>([query, key, value], segments, Some(sinks), options)
}

/// The composed forward, for a backward that needs nothing else of it.
pub fn reference_for_backward<B: FusedBackend>(
    inputs: SinkInputs<B>,
    options: AttentionOptions,
) -> (FloatTensor<B>, Option<Statistics<B>>) {
    (B::sink_attention(inputs, options), None)
}

/// The composed gradients for query, key and value.
pub fn reference_backward<B: FusedBackend>(
    inputs: SinkInputs<B>,
    grad: FloatTensor<B>,
    options: AttentionOptions,
) -> [FloatTensor<B>; 3] {
    let SinkInputs { query, key, value, segments, sinks } = inputs;
    attention::composed_backward::<B>([query, key, value], segments, Some(sinks), grad, options)
}

/// The result of attention with sinks, from that without: with the sum of exponentials grows what each result is divided by.
///
/// `O' = O · σ(l - s)`, `l' = l - ln σ(l - s)`, for the log-sum-exp `l` of a query and the sink `s` of its head.
#[cfg(any(feature = "cube", test))]
pub(crate) fn with_sinks<B: Backend>(statistics: Statistics<B>, sinks: FloatTensor<B>) -> Statistics<B> {
    use burn::tensor::TensorMetadata;
    use burn::tensor::activation::{log_sigmoid, sigmoid};

    let dtype = statistics.output.dtype();
    let output = typed::<B, 4>(statistics.output).cast(DType::F32);
    let sums = typed::<B, 3>(statistics.log_sum_exp);
    let [batch, heads, queries] = sums.dims();
    let above = sums.clone() - typed::<B, 1>(sinks).reshape([1, heads, 1]);
    let factor = sigmoid(above.clone()).swap_dims(1, 2).reshape([batch, queries, heads, 1]);
    Statistics { output: raw((output * factor).cast(dtype)), log_sum_exp: raw(sums - log_sigmoid(above)) }
}
