//! Scaled dot-product attention over packed rows.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Bool, DType, Int, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// How an attention layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor on the scores, usually `1 / √head_dim`.
    pub scale: f64,
    /// A query sees itself and the `window - 1` keys before it.
    pub sliding_window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f64>,
}

/// What a backward needs of its forward, beside the inputs.
#[derive(Debug, Clone)]
pub struct Statistics<B: Backend> {
    /// The result, of the shape of the query.
    pub output: FloatTensor<B>,
    /// `log Σ exp(score)` of each query, `[batch, heads, queries]`, f32.
    pub log_sum_exp: FloatTensor<B>,
}

/// Causal attention with grouped key and value heads.
///
/// `O = softmax(mask(scale · Q Kᵀ)) V`. Queries are the last `queries` positions of the `keys` positions, so that
/// a forward with a key-value cache and one without are the same operation. With `segments`, a token sees tokens of
/// its own segment only, so that several examples can share a row. The tokens of a segment must be adjacent.
///
/// # Shapes
/// `query` `[batch, queries, heads, head_dim]`, `key` and `value` `[batch, keys, key_value_heads, head_dim]`,
/// `segments` `[batch, keys]` with `queries == keys`; the result has the shape of `query`.
///
/// # Precision
/// Scores and softmax are f32.
///
/// # Panics
/// When shapes do not fit, or `heads` is not a multiple of `key_value_heads`.
///
/// # Source
/// Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries); `eager_attention_forward` of transformers 5.
pub fn attention<B: FusedBackend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    segments: Option<Tensor<B, 2, Int>>,
    options: AttentionOptions,
) -> Tensor<B, 4> {
    check([&query, &key, &value], segments.as_ref());
    typed(B::segment_attention(raw(query), raw(key), raw(value), segments.map(Tensor::into_primitive), options))
}

/// Checks the shapes of the inputs.
pub(crate) fn check<B: Backend>([query, key, value]: [&Tensor<B, 4>; 3], segments: Option<&Tensor<B, 2, Int>>) {
    let [batch, queries, heads, head_dim] = query.dims();
    let [key_batch, keys, key_value_heads, key_dim] = key.dims();
    assert_eq!(key.dims(), value.dims(), "attention: key and value differ");
    assert!(
        batch == key_batch && head_dim == key_dim && queries <= keys && heads.is_multiple_of(key_value_heads),
        "attention: query {:?} does not fit key {:?}",
        query.dims(),
        key.dims()
    );
    if let Some(segments) = segments {
        assert!(queries == keys && segments.dims() == [batch, keys], "attention: segments need one id a position");
    }
}

/// True where a key is hidden from a query: `[batch or 1, 1, queries, keys]`.
fn mask<B: Backend>(
    queries: usize,
    keys: usize,
    segments: Option<Tensor<B, 2, Int>>,
    window: Option<usize>,
    device: &B::Device,
) -> Tensor<B, 4, Bool> {
    let past = keys - queries;
    let row = Tensor::<B, 1, Int>::arange(past as i64..keys as i64, device).reshape([1, 1, queries, 1]);
    let column = Tensor::<B, 1, Int>::arange(0..keys as i64, device).reshape([1, 1, 1, keys]);
    let distance = row.expand([1, 1, queries, keys]) - column.expand([1, 1, queries, keys]);
    let mut hidden = distance.clone().lower_elem(0);
    if let Some(window) = window {
        hidden = hidden.bool_or(distance.greater_equal_elem(window as i64));
    }
    let Some(segments) = segments else { return hidden };
    let [batch, _] = segments.dims();
    let own = segments.clone().reshape([batch, 1, queries, 1]).expand([batch, 1, queries, keys]);
    let other = segments.reshape([batch, 1, 1, keys]).expand([batch, 1, queries, keys]);
    own.not_equal(other).bool_or(hidden.expand([batch, 1, queries, keys]))
}

/// The inputs rearranged for batched products: heads of one group are stacked along the rows.
struct Grouped<B: Backend> {
    /// `[batch, key_value_heads, group · queries, head_dim]`.
    query: Tensor<B, 4>,
    /// `[batch, key_value_heads, keys, head_dim]`.
    key: Tensor<B, 4>,
    /// `[batch, key_value_heads, keys, head_dim]`.
    value: Tensor<B, 4>,
    /// Softmax of the masked scores, `[batch, key_value_heads, group · queries, keys]`.
    probabilities: Tensor<B, 4>,
    /// `tanh(score / cap)`, which gives the slope of the soft-cap.
    capped: Option<Tensor<B, 4>>,
}

/// `[batch, length, heads, dim]` as f32 `[batch, key_value_heads, heads / key_value_heads · length, dim]`.
fn stack<B: Backend>(x: FloatTensor<B>, key_value_heads: usize) -> Tensor<B, 4> {
    let x = typed::<B, 4>(x).cast(DType::F32);
    let [batch, length, heads, dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, key_value_heads, heads / key_value_heads * length, dim])
}

/// The inverse of [`stack`].
fn unstack<B: Backend>(x: Tensor<B, 4>, heads: usize, dtype: DType) -> FloatTensor<B> {
    let [batch, key_value_heads, rows, dim] = x.dims();
    let length = rows * key_value_heads / heads;
    raw(x.reshape([batch, heads, length, dim]).swap_dims(1, 2).cast(dtype))
}

/// Scores are f32. A device that can't allocate them may go on without, and compute something else.
fn check_scores(elements: usize, allowed: Option<u64>) {
    let bytes = 4 * elements as u64;
    assert!(
        allowed.is_none_or(|allowed| bytes <= allowed),
        "out of memory: attention without a kernel for this backend needs a buffer of {bytes} bytes, more than the device allows; \
         use shorter rows, a smaller batch or another backend"
    );
}

/// With `sinks`, `[heads]`, each row of scores has one more while the softmax is taken.
fn grouped<B: FusedBackend>(
    [query, key, value]: [FloatTensor<B>; 3],
    segments: Option<IntTensor<B>>,
    sinks: Option<FloatTensor<B>>,
    options: AttentionOptions,
) -> Grouped<B> {
    let shape = query.shape();
    let (batch, queries, heads) = (shape[0], shape[1], shape[2]);
    let (keys, key_value_heads) = (key.shape()[1], key.shape()[2]);
    let query = stack::<B>(query, key_value_heads);
    let key = stack::<B>(key, key_value_heads);
    let value = stack::<B>(value, key_value_heads);
    let device = query.device();
    check_scores(batch * heads * queries * keys, B::largest_allocation(&device));
    let mut scores = query.clone().matmul(key.clone().swap_dims(2, 3)).mul_scalar(options.scale);
    let mut capped = None;
    if let Some(cap) = options.softcap {
        let inner = scores.div_scalar(cap).tanh();
        scores = inner.clone().mul_scalar(cap);
        capped = Some(inner);
    }
    let hidden = mask::<B>(queries, keys, segments.map(Tensor::from_primitive), options.sliding_window, &device);
    let masked = scores
        .reshape([batch, heads, queries, keys])
        .mask_fill(hidden.expand([batch, heads, queries, keys]), f32::MIN / 2.0);
    let probabilities = match sinks {
        Some(sinks) => {
            let sinks = typed::<B, 1>(sinks).reshape([1, heads, 1, 1]).expand([batch, heads, queries, 1]);
            softmax(Tensor::cat(vec![masked, sinks], 3), 3).narrow(3, 0, keys)
        }
        None => softmax(masked, 3),
    };
    let probabilities = probabilities.reshape([batch, key_value_heads, heads / key_value_heads * queries, keys]);
    Grouped { query, key, value, probabilities, capped }
}

/// The composed forward.
///
/// # Panics
/// If the device can't allocate the scores, `[batch, heads, queries, keys]` in f32.
pub fn reference<B: FusedBackend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    segments: Option<IntTensor<B>>,
    options: AttentionOptions,
) -> FloatTensor<B> {
    composed::<B>([query, key, value], segments, None, options)
}

/// The composed forward, with or without sinks.
pub(crate) fn composed<B: FusedBackend>(
    inputs: [FloatTensor<B>; 3],
    segments: Option<IntTensor<B>>,
    sinks: Option<FloatTensor<B>>,
    options: AttentionOptions,
) -> FloatTensor<B> {
    let (dtype, heads) = (inputs[0].dtype(), inputs[0].shape()[2]);
    let grouped = grouped::<B>(inputs, segments, sinks, options);
    unstack(grouped.probabilities.matmul(grouped.value), heads, dtype)
}

/// As [`reference()`], for a backward that needs nothing else of its forward.
pub fn reference_for_backward<B: FusedBackend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    segments: Option<IntTensor<B>>,
    options: AttentionOptions,
) -> (FloatTensor<B>, Option<Statistics<B>>) {
    (B::segment_attention(query, key, value, segments, options), None)
}

/// The composed backward, which recomputes the probabilities.
///
/// `dV = Pᵀ dO`, `dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ))`, `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.
pub fn reference_backward<B: FusedBackend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    segments: Option<IntTensor<B>>,
    grad: FloatTensor<B>,
    options: AttentionOptions,
) -> [FloatTensor<B>; 3] {
    composed_backward::<B>([query, key, value], segments, None, grad, options)
}

/// The composed backward, with or without sinks, whose probabilities have no part in it but in the sum of the others.
pub(crate) fn composed_backward<B: FusedBackend>(
    inputs: [FloatTensor<B>; 3],
    segments: Option<IntTensor<B>>,
    sinks: Option<FloatTensor<B>>,
    grad: FloatTensor<B>,
    options: AttentionOptions,
) -> [FloatTensor<B>; 3] {
    let (dtype, heads, key_value_heads) = (inputs[0].dtype(), inputs[0].shape()[2], inputs[1].shape()[2]);
    let grad = stack::<B>(grad, key_value_heads);
    let Grouped { query, key, value, probabilities, capped } = grouped::<B>(inputs, segments, sinks, options);
    let d_value = probabilities.clone().swap_dims(2, 3).matmul(grad.clone());
    let d_probabilities = grad.matmul(value.swap_dims(2, 3));
    let row = (probabilities.clone() * d_probabilities.clone()).sum_dim(3);
    let mut d_scores = probabilities * (d_probabilities - row);
    if let Some(capped) = capped {
        d_scores = d_scores * (capped.clone() * capped).neg().add_scalar(1.0);
    }
    let d_scores = d_scores.mul_scalar(options.scale);
    let d_query = d_scores.clone().matmul(key);
    let d_key = d_scores.swap_dims(2, 3).matmul(query);
    [unstack(d_query, heads, dtype), unstack(d_key, key_value_heads, dtype), unstack(d_value, key_value_heads, dtype)]
}

#[cfg(test)]
mod tests {
    use super::check_scores;

    #[test]
    fn scores_up_to_the_limit_are_allowed() {
        check_scores(10, Some(40));
        check_scores(usize::MAX / 8, None);
    }

    #[test]
    #[should_panic(expected = "needs a buffer of 44 bytes")]
    fn larger_scores_are_refused() {
        check_scores(11, Some(40));
    }
}
