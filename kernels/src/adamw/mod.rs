//! The optimizer's update.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// The parameters of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Step size η.
    pub learning_rate: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Decay β₂ of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay λ.
    pub weight_decay: f64,
    /// Number of this update, from 1; it sets the bias correction.
    pub step: usize,
    /// Factor on the gradient: one over the loss scale.
    pub gradient_factor: f64,
    /// Largest gradient norm over all tensors, after [`AdamWStep::gradient_factor`]; 0 does not clip. Needs
    /// [`AdamWTensors::squares`].
    pub max_norm: f64,
}

/// Added to the norm in clipping, as `torch.nn.utils.clip_grad_norm_` does.
pub(crate) const CLIP_EPSILON: f64 = 1e-6;

/// A parameter, its gradient and its moments, all of one shape.
#[derive(Debug, Clone)]
pub struct AdamWTensors<B: Backend> {
    /// What is trained, f32.
    pub parameter: FloatTensor<B>,
    /// Its gradient, before [`AdamWStep::gradient_factor`].
    pub gradient: FloatTensor<B>,
    /// Mean of the gradients.
    pub first: FloatTensor<B>,
    /// Mean of their squares.
    pub second: FloatTensor<B>,
    /// Squared norm of the gradients that are clipped together, `[1]`, f32, before [`AdamWStep::gradient_factor`]. Where it is NaN
    /// or infinite, the update changes nothing, so that the host need not wait for the device to decide that.
    pub squares: Option<FloatTensor<B>>,
}

impl<B: Backend> AdamWTensors<B> {
    /// # Panics
    /// When the shapes differ.
    pub fn new<const D: usize>(
        parameter: Tensor<B, D>,
        gradient: Tensor<B, D>,
        first: Tensor<B, D>,
        second: Tensor<B, D>,
    ) -> Self {
        assert!(
            parameter.dims() == gradient.dims() && parameter.dims() == first.dims() && parameter.dims() == second.dims(),
            "adamw: parameter, gradient and moments differ in shape"
        );
        Self { parameter: raw(parameter), gradient: raw(gradient), first: raw(first), second: raw(second), squares: None }
    }

    /// With the squared norm of all gradients, to clip them and to skip a non-finite update.
    #[must_use]
    pub fn clipped_by(self, squares: Tensor<B, 1>) -> Self {
        Self { squares: Some(raw(squares)), ..self }
    }
}

/// One AdamW update; returns the parameter and its moments. Combine many parameters with [`pack`](crate::pack()).
///
/// `m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`,
/// `p ← (1-ηλ)p - η (m/(1-β₁ᵗ)) / (√v / √(1-β₂ᵗ) + ε)`,
/// where `g` is the gradient times its factor, and times `min(1, max_norm / (norm + 1e-6))` where it is clipped.
///
/// # Precision
/// f32.
///
/// # Source
/// Loshchilov and Hutter 2019; `torch.optim.AdamW` with `fused=True`, `torch.nn.utils.clip_grad_norm_`.
pub fn adamw<B: FusedBackend>(tensors: AdamWTensors<B>, step: AdamWStep) -> [FloatTensor<B>; 3] {
    B::adamw(tensors, step)
}

/// The composed update.
pub fn reference<B: Backend>(tensors: AdamWTensors<B>, step: AdamWStep) -> [FloatTensor<B>; 3] {
    let AdamWTensors { parameter, gradient, first, second, squares } = tensors;
    // Rank does not matter to an element-wise update: everything is flattened.
    let shape = burn::tensor::TensorMetadata::shape(&parameter);
    let flat = burn::tensor::Shape::from([shape.num_elements()]);
    let [parameter, gradient, first, second] =
        [parameter, gradient, first, second].map(|tensor| typed::<B, 1>(B::float_reshape(tensor, flat.clone())));
    let old = [parameter.clone(), first.clone(), second.clone()];
    let squares = squares.map(typed::<B, 1>);
    let mut gradient = gradient.mul_scalar(step.gradient_factor);
    if let Some(squares) = squares.clone().filter(|_| step.max_norm > 0.0) {
        let norm = squares.sqrt().mul_scalar(step.gradient_factor).add_scalar(CLIP_EPSILON);
        gradient = gradient * norm.recip().mul_scalar(step.max_norm).clamp_max(1.0);
    }
    let first = first.mul_scalar(step.beta1) + gradient.clone().mul_scalar(1.0 - step.beta1);
    let second = second.mul_scalar(step.beta2) + (gradient.clone() * gradient).mul_scalar(1.0 - step.beta2);
    let count = i32::try_from(step.step).unwrap_or(i32::MAX);
    let first_correction = 1.0 - step.beta1.powi(count);
    let second_correction = 1.0 - step.beta2.powi(count);
    let denominator = second.clone().sqrt().div_scalar(second_correction.sqrt()).add_scalar(step.epsilon);
    let update = (first.clone() / denominator).mul_scalar(step.learning_rate / first_correction);
    let parameter = parameter.mul_scalar(1.0 - step.learning_rate * step.weight_decay) - update;
    let skipped = squares.map(|squares| squares.is_finite().bool_not().expand(flat));
    let or_old = |new: Tensor<B, 1>, old: Tensor<B, 1>| match &skipped {
        Some(skipped) => new.mask_where(skipped.clone(), old),
        None => new,
    };
    let [old_parameter, old_first, old_second] = old;
    [or_old(parameter, old_parameter), or_old(first, old_first), or_old(second, old_second)]
        .map(|tensor| B::float_reshape(raw(tensor), shape.clone()))
}
