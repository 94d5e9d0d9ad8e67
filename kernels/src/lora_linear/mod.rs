//! A frozen linear layer with a low-rank adapter.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
pub mod packed;
mod unread;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::dropout::Dropout;
use crate::primitive::{cast, raw, typed};
use crate::{FusedBackend, dropout};
pub use unread::{Unread, unread_lora_linear};

/// What a forward keeps for its backward; `W` is how the weight is stored.
#[derive(Debug, Clone)]
pub struct LoraSaved<B: Backend, W = FloatTensor<B>> {
    /// `[rows, in]`.
    pub x: FloatTensor<B>,
    /// `[out, in]`.
    pub weight: W,
    /// `[rank, in]`, f32.
    pub lora_a: FloatTensor<B>,
    /// `[out, rank]`, f32.
    pub lora_b: FloatTensor<B>,
    /// `scale · dropout(x) Aᵀ`, `[rows, rank]`.
    pub hidden: FloatTensor<B>,
    /// Factor on the update.
    pub scale: f64,
    /// Dropout of the adapter's input.
    pub dropout: Option<Dropout>,
}

/// Gradients of a layer with an adapter.
#[derive(Debug, Clone)]
pub struct LoraGradients<B: Backend> {
    /// For the input, where it was asked for.
    pub x: Option<FloatTensor<B>>,
    /// For `A`, f32.
    pub lora_a: FloatTensor<B>,
    /// For `B`, f32.
    pub lora_b: FloatTensor<B>,
}

/// `y = x Wᵀ + scale · (dropout(x) Aᵀ) Bᵀ`; the dense `W + scale · B A` is never formed.
///
/// Dropout applies to the adapter's input only. The backward draws the mask again from its key.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]` (frozen), `lora_a` `[rank, in]`, `lora_b` `[out, rank]`, as PEFT stores them.
///
/// # Precision
/// `x`, `weight` and the result have the compute dtype; the factors and their gradients are f32.
///
/// # Panics
/// When shapes do not fit, or the probability of the dropout is not within `[0, 1)`.
///
/// # Source
/// Hu et al. 2021, "LoRA"; `peft.tuners.lora.Linear` of PEFT 0.21.
pub fn lora_linear<B: FusedBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    scale: f64,
    dropout: Option<Dropout>,
) -> Tensor<B, 2> {
    let ([_, inputs], [outputs, weight_inputs]) = (x.dims(), weight.dims());
    let rank = lora_a.dims()[0];
    assert!(
        inputs == weight_inputs && lora_a.dims() == [rank, inputs] && lora_b.dims() == [outputs, rank],
        "lora_linear: x {:?}, weight {:?}, A {:?}, B {:?} do not fit",
        x.dims(),
        weight.dims(),
        lora_a.dims(),
        lora_b.dims()
    );
    let dropout = dropout.filter(|dropout| dropout::drops(dropout.probability));
    typed(B::lora_linear(raw(x), raw(weight), raw(lora_a), raw(lora_b), scale, dropout).0)
}

/// The adapter's input: `x` after its dropout.
pub(crate) fn seen<B: FusedBackend>(x: FloatTensor<B>, dropout: Option<Dropout>) -> FloatTensor<B> {
    match dropout {
        Some(dropout) => B::dropout(x, dropout),
        None => x,
    }
}

/// The composed `scale · dropout(x) Aᵀ`.
pub fn reference_hidden<B: FusedBackend>(
    x: FloatTensor<B>,
    lora_a: FloatTensor<B>,
    scale: f64,
    dropout: Option<Dropout>,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let seen = seen::<B>(x, dropout);
    raw(typed::<B, 2>(B::dense_linear(seen, cast::<B>(lora_a, dtype))).mul_scalar(scale))
}

/// The composed forward, with `scale · dropout(x) Aᵀ` beside the result.
pub fn reference<B: FusedBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let hidden = reference_hidden::<B>(x.clone(), lora_a, scale, dropout);
    reference_on::<B>(x, hidden, lora_b, |x| B::dense_linear(x, weight))
}

/// The same, given `scale · dropout(x) Aᵀ` and the base product.
fn reference_on<B: FusedBackend>(
    x: FloatTensor<B>,
    hidden: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    base: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let low_rank = typed::<B, 2>(B::dense_linear(hidden.clone(), cast::<B>(lora_b, x.dtype())));
    (raw(typed::<B, 2>(base(x)) + low_rank), hidden)
}

/// The composed backward: with `g = scale · dy B` and `h = scale · dropout(x) Aᵀ`, `dx = dy W + dropout(g A)`,
/// `dA = gᵀ dropout(x)`, `dB = dyᵀ h`.
pub fn reference_backward<B: FusedBackend>(
    saved: LoraSaved<B>,
    grad: FloatTensor<B>,
    input_gradient: bool,
) -> LoraGradients<B> {
    reference_backward_on::<B, _>(saved, grad, input_gradient, B::linear_backward_input)
}

/// The same, given the base product of `dy` and the weight.
fn reference_backward_on<B: FusedBackend, W>(
    saved: LoraSaved<B, W>,
    grad: FloatTensor<B>,
    input_gradient: bool,
    base: impl FnOnce(FloatTensor<B>, W) -> FloatTensor<B>,
) -> LoraGradients<B> {
    let dtype = saved.x.dtype();
    let (factor_a, factor_b) = (cast::<B>(saved.lora_a, dtype), cast::<B>(saved.lora_b, dtype));
    let scaled = raw(typed::<B, 2>(B::linear_backward_input(grad.clone(), factor_b)).mul_scalar(saved.scale));
    let lora_b = cast::<B>(B::linear_backward_weight(saved.hidden, grad.clone()), DType::F32);
    let lora_a = cast::<B>(B::linear_backward_weight(seen::<B>(saved.x, saved.dropout), scaled.clone()), DType::F32);
    let x = input_gradient.then(|| {
        let base = typed::<B, 2>(base(grad, saved.weight));
        raw(base + typed(seen::<B>(B::linear_backward_input(scaled, factor_a), saved.dropout)))
    });
    LoraGradients { x, lora_a, lora_b }
}
