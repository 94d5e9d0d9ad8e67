//! Root-mean-square norms.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burnish_kernels::{FusedBackend, rms_norm, view};

use crate::weight::VectorWeight;

/// A root-mean-square norm: `x / sqrt(mean(x²) + ε) · (offset + w)`. The offset is 1 in Gemma and otherwise 0.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[features]`. If it is frozen, the offset has already been added, in f32.
    weight: VectorWeight<B>,
    #[module(skip)]
    name: String,
    offset: f64,
    epsilon: f64,
}

impl<B: FusedBackend> Norm<B> {
    /// A norm; `name` is the checkpoint name of its weight. If the weight is frozen, it must have the offset added.
    pub fn new(name: String, weight: VectorWeight<B>, offset: f64, epsilon: f64) -> Self {
        Self { weight, name, offset, epsilon }
    }

    /// The checkpoint name of the weight.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight. If it is frozen, the offset has been added.
    pub fn weight(&self) -> &VectorWeight<B> {
        &self.weight
    }

    /// The weight as checkpoints store it, without the offset, `[features]`.
    pub fn stored(&self) -> Tensor<B, 1> {
        match &self.weight {
            VectorWeight::Frozen(sum) if self.has_offset() => sum.clone().cast(DType::F32).sub_scalar(self.offset),
            weight => weight.val(),
        }
    }

    /// The factor `offset + w`, `[features]`.
    pub fn factor(&self) -> Tensor<B, 1> {
        match &self.weight {
            VectorWeight::Trainable(param) if self.has_offset() => param.val().add_scalar(self.offset),
            weight => weight.val(),
        }
    }

    /// The epsilon that is added to the mean square.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Normalises the rows of `[rows, features]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        rms_norm(x, self.factor(), self.epsilon)
    }

    /// Normalises each part of the rows of `[rows, parts · features]`.
    pub fn forward_parts(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, width], [features]) = (x.dims(), self.weight.val().dims());
        view(self.forward(view(x, [rows * width / features, features])), [rows, width])
    }

    fn has_offset(&self) -> bool {
        self.offset != 0.0
    }
}
