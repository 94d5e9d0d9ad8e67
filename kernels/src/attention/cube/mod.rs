//! Attention on the GPU in memory that grows with the sequence, not with its square (Dao 2023, "FlashAttention-2").
//!
//! A cube owns some rows of scores and loops over their columns, one tile at a time. In the forward and for `dQ` the rows are
//! queries; for `dK` and `dV` they are keys. Gradients are computed without atomics, so that they are the same each time.

mod decode;
mod fragments;
mod fragments_backward;
mod launch;
mod registers;
mod registers_backward;
mod registers_forward;
mod scores;
mod threads;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::{AttentionOptions, Statistics};
use crate::cube::BackendOn;
use crate::cube::launch::same_float;

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
pub(crate) use launch::deltas;

/// Whether the kernels support these inputs.
fn fits<R: CubeRuntime>(query: &CubeTensor<R>, key: &CubeTensor<R>, value: &CubeTensor<R>) -> bool {
    same_float(&[query, key, value]) && launch::fits(query.meta.shape()[3])
}

/// The result.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(
    query: CubeTensor<R>,
    key: CubeTensor<R>,
    value: CubeTensor<R>,
    segments: Option<CubeTensor<R>>,
    options: AttentionOptions,
) -> CubeTensor<R> {
    if !fits(&query, &key, &value) {
        return super::reference::<B>(query, key, value, segments, options);
    }
    let decoded = decode::decode([&query, &key, &value], options);
    decoded.unwrap_or_else(|| launch::forward([query, key, value], segments, options).0)
}

/// The result, and what [`backward`] needs of it.
pub(crate) fn forward_for_backward<R: CubeRuntime, B: BackendOn<R>>(
    query: CubeTensor<R>,
    key: CubeTensor<R>,
    value: CubeTensor<R>,
    segments: Option<CubeTensor<R>>,
    options: AttentionOptions,
) -> (CubeTensor<R>, Option<Statistics<B>>) {
    if !fits(&query, &key, &value) {
        return (super::reference::<B>(query, key, value, segments, options), None);
    }
    let (output, log_sum_exp) = launch::forward([query, key, value], segments, options);
    (output.clone(), Some(Statistics { output, log_sum_exp }))
}

/// Gradients for query, key and value; the kernels need the statistics of their forward.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    query: CubeTensor<R>,
    key: CubeTensor<R>,
    value: CubeTensor<R>,
    segments: Option<CubeTensor<R>>,
    statistics: Option<Statistics<B>>,
    grad: CubeTensor<R>,
    options: AttentionOptions,
) -> [CubeTensor<R>; 3] {
    match statistics {
        Some(Statistics { output, log_sum_exp }) if same_float(&[&query, &grad]) => {
            launch::backward([query, key, value], segments, [output, log_sum_exp, grad], options)
        }
        _ => super::reference_backward::<B>(query, key, value, segments, grad, options),
    }
}
