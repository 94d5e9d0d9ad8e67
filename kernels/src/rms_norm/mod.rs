//! Root-mean-square normalisation.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// Normalises each row by its root mean square: `y = x / sqrt(mean(x²) + ε) · w`.
///
/// # Shapes
/// `x` `[rows, features]`, `weight` `[features]`; the result has the shape of `x`.
///
/// # Precision
/// The statistic is f32 whatever the dtype of `x`.
///
/// # Panics
/// When the length of `weight` is not that of a row.
///
/// # Source
/// Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; `LlamaRMSNorm` of transformers 5.
pub fn rms_norm<B: FusedBackend>(x: Tensor<B, 2>, weight: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    assert_eq!(x.dims()[1], weight.dims()[0], "rms_norm: a weight of {} for rows of {}", weight.dims()[0], x.dims()[1]);
    typed(B::rms_norm(raw(x), raw(weight), epsilon))
}

/// Adds and normalises: `s = x + residual`, and [`rms_norm`] of `s`. Returns both.
///
/// # Shapes
/// As [`rms_norm`]; `residual` and the sum have the shape of `x`.
///
/// # Panics
/// When shapes do not fit.
pub fn add_rms_norm<B: FusedBackend>(
    x: Tensor<B, 2>,
    residual: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    epsilon: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    assert!(
        x.dims() == residual.dims() && x.dims()[1] == weight.dims()[0],
        "add_rms_norm: {:?}, {:?} and a weight of {} do not fit",
        x.dims(),
        residual.dims(),
        weight.dims()[0]
    );
    let (sum, normed) = B::add_rms_norm(raw(x), raw(residual), raw(weight), epsilon);
    (typed(sum), typed(normed))
}

/// [`rms_norm`] of an `x` that is used besides: returns `x` and its norm. The backward adds the gradients of both in one pass, as
/// [`add_rms_norm`]'s does.
///
/// # Shapes
/// As [`rms_norm`].
///
/// # Panics
/// When the length of `weight` is not that of a row.
pub fn fork_rms_norm<B: FusedBackend>(x: Tensor<B, 2>, weight: Tensor<B, 1>, epsilon: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
    assert_eq!(x.dims()[1], weight.dims()[0], "rms_norm: a weight of {} for rows of {}", weight.dims()[0], x.dims()[1]);
    let (x, normed) = B::fork_rms_norm(raw(x), raw(weight), epsilon);
    (typed(x), typed(normed))
}

/// `1 / sqrt(mean(x²) + ε)` of each row, `[rows, 1]`, f32.
fn inverse_rms<B: Backend>(x: Tensor<B, 2>, epsilon: f64) -> Tensor<B, 2> {
    (x.clone() * x).mean_dim(1).add_scalar(epsilon).sqrt().recip()
}

/// The composed forward.
pub fn reference<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = typed::<B, 2>(x).cast(DType::F32);
    let normalised = x.clone() * inverse_rms(x, epsilon);
    raw((normalised * typed::<B, 1>(weight).cast(DType::F32).unsqueeze()).cast(dtype))
}

/// The composed [`add_rms_norm`]: the sum, and its norm.
pub fn reference_add<B: FusedBackend>(
    x: FloatTensor<B>,
    residual: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sum = B::float_add(x, residual);
    (sum.clone(), B::rms_norm(sum, weight, epsilon))
}

/// The composed [`fork_rms_norm`].
pub fn reference_fork<B: FusedBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    (x.clone(), B::rms_norm(x, weight, epsilon))
}

/// The composed backward: `dx = r (g - x̂ · mean(g x̂))` with `g = dy · w`, and `dw = Σ dy x̂`.
pub fn reference_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    residual: Option<FloatTensor<B>>,
    epsilon: f64,
    weight_gradient: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let (dtype, weight_dtype) = (x.dtype(), weight.dtype());
    let x = typed::<B, 2>(x).cast(DType::F32);
    let grad = typed::<B, 2>(grad).cast(DType::F32);
    let inverse = inverse_rms(x.clone(), epsilon);
    let normalised = x * inverse.clone();
    let dw =
        weight_gradient.then(|| raw((grad.clone() * normalised.clone()).sum_dim(0).squeeze_dim::<1>(0).cast(weight_dtype)));
    let scaled = grad * typed::<B, 1>(weight).cast(DType::F32).unsqueeze();
    let mean = (scaled.clone() * normalised.clone()).mean_dim(1);
    let mut dx = (scaled - normalised * mean) * inverse;
    if let Some(residual) = residual {
        dx = dx + typed::<B, 2>(residual).cast(DType::F32);
    }
    (raw(dx.cast(dtype)), dw)
}
