//! A frozen linear layer with a low-rank adapter.

pub(crate) mod autodiff;
pub(crate) mod flex;

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// `y = x Wᵀ + scale · (x Aᵀ) Bᵀ`; the dense `W + scale · B A` is never formed.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]` (frozen), `lora_a` `[rank, in]`, `lora_b` `[out, rank]`, as PEFT stores them.
///
/// # Panics
/// When shapes do not fit.
///
/// # Source
/// Hu et al. 2021, "LoRA"; `peft.tuners.lora.Linear` of PEFT 0.21.
pub fn lora_linear<B: FusedBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    scale: f64,
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
    typed(B::lora_linear(raw(x), raw(weight), raw(lora_a), raw(lora_b), scale))
}

/// The composed forward.
pub fn reference<B: FusedBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let hidden = B::dense_linear(x.clone(), lora_a);
    let low_rank = typed::<B, 2>(B::dense_linear(hidden, lora_b)).mul_scalar(scale);
    raw(typed::<B, 2>(B::dense_linear(x, weight)) + low_rank)
}

/// The composed backward: with `g = scale · dy B`, `dx = dy W + g A`, `dA = gᵀ x`, `dB = scale · dyᵀ (x Aᵀ)`.
pub fn reference_backward<B: FusedBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    grad: FloatTensor<B>,
    scale: f64,
    input_gradient: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>) {
    let scaled = raw(typed::<B, 2>(B::linear_backward_input(grad.clone(), lora_b)).mul_scalar(scale));
    let hidden = B::dense_linear(x.clone(), lora_a.clone());
    let d_b = raw(typed::<B, 2>(B::linear_backward_weight(hidden, grad.clone())).mul_scalar(scale));
    let d_a = B::linear_backward_weight(x, scaled.clone());
    let dx = input_gradient.then(|| {
        let base = typed::<B, 2>(B::linear_backward_input(grad, weight));
        raw(base + typed(B::linear_backward_input(scaled, lora_a)))
    });
    (dx, d_a, d_b)
}
