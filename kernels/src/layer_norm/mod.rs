//! Layer normalisation.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// Normalises each row by its mean and variance: `y = (x - mean(x)) / sqrt(var(x) + ε) · w + b`.
///
/// # Shapes
/// `x` `[rows, features]`, `weight` and `bias` `[features]`; the result has the shape of `x`.
///
/// # Precision
/// The statistics are f32 whatever the dtype of `x`.
///
/// # Panics
/// When the length of `weight` or `bias` is not that of a row.
///
/// # Source
/// Ba, Kiros and Hinton 2016, "Layer Normalization"; the variance is that of `torch.nn.LayerNorm`, over all features.
pub fn layer_norm<B: FusedBackend>(x: Tensor<B, 2>, weight: Tensor<B, 1>, bias: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    let [_, features] = x.dims();
    assert!(
        weight.dims() == [features] && bias.dims() == [features],
        "layer_norm: a weight of {:?} and a bias of {:?} for rows of {features}",
        weight.dims(),
        bias.dims()
    );
    typed(B::row_layer_norm(raw(x), raw(weight), raw(bias), epsilon))
}

/// `x̂`, and `1 / sqrt(var(x) + ε)` of each row, `[rows, 1]`; both f32.
fn normalised<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let x = typed::<B, 2>(x).cast(DType::F32);
    let centred = x.clone() - x.mean_dim(1);
    let inverse = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(epsilon).sqrt().recip();
    (centred * inverse.clone(), inverse)
}

/// The composed forward.
pub fn reference<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let row = |tensor| typed::<B, 1>(tensor).cast(DType::F32).unsqueeze();
    let (normalised, _) = normalised::<B>(x, epsilon);
    raw((normalised * row(weight) + row(bias)).cast(dtype))
}

/// The composed backward: `dx = r (g - mean(g) - x̂ · mean(g x̂))` with `g = dy · w`, `dw = Σ dy x̂`, `db = Σ dy`.
pub fn reference_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
    weight_gradients: bool,
) -> (FloatTensor<B>, Option<[FloatTensor<B>; 2]>) {
    let (dtype, weight_dtype) = (x.dtype(), weight.dtype());
    let (normalised, inverse) = normalised::<B>(x, epsilon);
    let grad = typed::<B, 2>(grad).cast(DType::F32);
    let sum = |rows: Tensor<B, 2>| raw(rows.sum_dim(0).squeeze_dim::<1>(0).cast(weight_dtype));
    let gradients = weight_gradients.then(|| [sum(grad.clone() * normalised.clone()), sum(grad.clone())]);
    let scaled = grad * typed::<B, 1>(weight).cast(DType::F32).unsqueeze();
    let mean = scaled.clone().mean_dim(1);
    let along = (scaled.clone() * normalised.clone()).mean_dim(1);
    let dx = (scaled - mean - normalised * along) * inverse;
    (raw(dx.cast(dtype)), gradients)
}
