//! The gated activations of feed-forward layers.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The activation of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `z / (1 + e⁻ᶻ)`.
    Silu,
    /// `½ z (1 + tanh(√(2/π) (z + 0.044715 z³)))`, `gelu_pytorch_tanh` of transformers.
    GeluTanh,
}

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
    typed(B::glu(raw(gate), raw(up), Activation::Silu))
}

/// `gelu(gate) · up`, with the approximation of gelu by tanh that Gemma uses.
///
/// # Shapes
/// Both `[rows, features]`, as is the result.
///
/// # Panics
/// When the shapes differ.
///
/// # Source
/// Shazeer 2020; Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
pub fn geglu<B: FusedBackend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    assert_eq!(gate.dims(), up.dims(), "geglu: gate and up differ");
    typed(B::glu(raw(gate), raw(up), Activation::GeluTanh))
}

/// The activation of `z` and its slope.
fn activate<B: Backend>(z: Tensor<B, 2>, activation: Activation) -> (Tensor<B, 2>, Tensor<B, 2>) {
    match activation {
        Activation::Silu => {
            let s = sigmoid(z.clone());
            let slope = (z.clone() * s.clone().neg().add_scalar(1.0)).add_scalar(1.0) * s.clone();
            (z * s, slope)
        }
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let square = z.clone() * z.clone();
            let t = ((z.clone() * square.clone()).mul_scalar(0.044_715) + z.clone()).mul_scalar(root).tanh();
            let inner = square.mul_scalar(3.0 * 0.044_715).add_scalar(1.0).mul_scalar(root);
            let half = t.clone().add_scalar(1.0).mul_scalar(0.5);
            let slope = half.clone() + z.clone().mul_scalar(0.5) * (t.clone() * t).neg().add_scalar(1.0) * inner;
            (z * half, slope)
        }
    }
}

/// The composed forward.
pub fn reference<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let [gate, up] = [gate, up].map(|x| typed::<B, 2>(x).cast(DType::F32));
    raw((activate(gate, activation).0 * up).cast(dtype))
}

/// The composed backward: `dgate = dy · up · f'(gate)`, `dup = dy · f(gate)`.
pub fn reference_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = gate.dtype();
    let [gate, up, grad] = [gate, up, grad].map(|x| typed::<B, 2>(x).cast(DType::F32));
    let (value, slope) = activate(gate, activation);
    (raw((grad.clone() * up * slope).cast(dtype)), raw((grad * value).cast(dtype)))
}
