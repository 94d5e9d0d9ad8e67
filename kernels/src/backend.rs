//! The traits that models and the training loop ask of a backend.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::adamw::{self, AdamWStep};
use crate::attention::{self, AttentionOptions};
use crate::{linear, linear_cross_entropy, lora_linear, rms_norm, rotary, swiglu};

/// A burn backend with the fused operations of Burnish.
///
/// Every method defaults to the composed reference in plain burn operations, so that
/// `impl FusedBackend for MyBackend {}` is all that a backend needs. Shapes are stated at the typed functions
/// ([`crate::rms_norm()`], [`crate::attention()`], …), which are what model code calls.
pub trait FusedBackend: Backend {
    /// See [`crate::rms_norm()`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        rms_norm::reference::<Self>(x, weight, epsilon)
    }

    /// Gradients of [`FusedBackend::rms_norm`] for `x` and, where asked for, `weight`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        weight_gradient: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        rms_norm::reference_backward::<Self>(x, weight, grad, epsilon, weight_gradient)
    }

    /// See [`crate::rotary()`]; `inverse` turns the other way, which is the backward.
    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool) -> FloatTensor<Self> {
        rotary::reference::<Self>(x, cos, sin, inverse)
    }

    /// See [`crate::swiglu()`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        swiglu::reference::<Self>(gate, up)
    }

    /// Gradients of [`FusedBackend::swiglu`] for `gate` and `up`.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        swiglu::reference_backward::<Self>(gate, up, grad)
    }

    /// See [`crate::attention()`].
    fn segment_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        attention::reference::<Self>(query, key, value, segments, options)
    }

    /// Gradients of [`FusedBackend::segment_attention`] for query, key and value.
    fn attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        attention::reference_backward::<Self>(query, key, value, segments, grad, options)
    }

    /// See [`crate::linear()`].
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::reference::<Self>(x, weight)
    }

    /// Gradient of [`FusedBackend::dense_linear`] for `x`: `dy · W`.
    fn linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(grad, weight)
    }

    /// Gradient of [`FusedBackend::dense_linear`] for `weight`: `dyᵀ · x`.
    fn linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(Self::float_transpose(grad), x)
    }

    /// See [`crate::lora_linear()`].
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        lora_linear::reference::<Self>(x, weight, lora_a, lora_b, scale)
    }

    /// Gradients of [`FusedBackend::lora_linear`] for `x` (where asked for), `lora_a` and `lora_b`.
    fn lora_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
        input_gradient: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>) {
        lora_linear::reference_backward::<Self>(x, weight, lora_a, lora_b, grad, scale, input_gradient)
    }

    /// See [`crate::linear_cross_entropy()`].
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::reference::<Self>(hidden, weight, labels)
    }

    /// The summed loss, and its gradients for `hidden` and, where asked for, `weight`.
    fn linear_cross_entropy_with_gradient(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weight_gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        linear_cross_entropy::reference_with_gradient::<Self>(hidden, weight, labels, weight_gradient)
    }

    /// See [`crate::adamw()`].
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> [FloatTensor<Self>; 3] {
        adamw::reference::<Self>(parameter, gradient, first, second, step)
    }
}

/// A backend that trains: fused operations with gradients, and fused operations on the inner backend.
pub trait TrainBackend: FusedBackend + AutodiffBackend<InnerBackend: FusedBackend> {}

impl<B: FusedBackend + AutodiffBackend<InnerBackend: FusedBackend>> TrainBackend for B {}
