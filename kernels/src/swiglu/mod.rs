//! The gated activation of the Llama feed-forward.

pub(crate) mod autodiff;
pub(crate) mod flex;

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// `silu(gate) · up`, with `silu(z) = z / (1 + e⁻ᶻ)`.
///
/// # Shapes
/// Both `[rows, features]`, as is the result.
///
/// # Panics
/// When the shapes differ.
///
/// # Source
/// Shazeer 2020, "GLU Variants Improve Transformer".
pub fn swiglu<B: FusedBackend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up differ");
    typed(B::swiglu(raw(gate), raw(up)))
}

/// The composed forward.
pub fn reference<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let gate = typed::<B, 2>(gate);
    raw(gate.clone() * sigmoid(gate) * typed(up))
}

/// The composed backward: with `s = σ(gate)`, `dgate = dy·up·s(1 + gate(1 - s))`, `dup = dy·gate·s`.
pub fn reference_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (gate, up, grad) = (typed::<B, 2>(gate), typed::<B, 2>(up), typed::<B, 2>(grad));
    let s = sigmoid(gate.clone());
    let dup = grad.clone() * gate.clone() * s.clone();
    let slope = (gate * s.clone().neg().add_scalar(1.0)).add_scalar(1.0);
    let dgate = grad * up * s * slope;
    (raw(dgate), raw(dup))
}
