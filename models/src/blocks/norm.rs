//! Root-mean-square norms, of rows and of heads.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burnish_kernels::{FusedBackend, rms_norm};

use crate::weight::Weight;

/// `x / sqrt(mean(x²) + ε) · (offset + w)`; the offset is 0 or, in Gemma, 1.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[features]`. A frozen one holds the sum with the offset, computed once in f32.
    weight: Weight<B, 1>,
    #[module(skip)]
    name: String,
    offset: f64,
    epsilon: f64,
}

impl<B: FusedBackend> Norm<B> {
    /// A norm whose weight has that checkpoint name; a frozen weight has the offset in it.
    pub fn new(name: String, weight: Weight<B, 1>, offset: f64, epsilon: f64) -> Self {
        Self { weight, name, offset, epsilon }
    }

    /// The checkpoint's name of the weight.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight as it trains, where it does.
    pub fn weight(&self) -> &Weight<B, 1> {
        &self.weight
    }

    /// The weight as checkpoints store it, without the offset.
    pub fn stored(&self) -> Tensor<B, 1> {
        match &self.weight {
            Weight::Frozen(sum) if self.has_offset() => sum.clone().cast(DType::F32).sub_scalar(self.offset),
            weight => weight.val(),
        }
    }

    /// What rows are multiplied by.
    pub fn factor(&self) -> Tensor<B, 1> {
        match &self.weight {
            Weight::Trainable(param) if self.has_offset() => param.val().add_scalar(self.offset),
            weight => weight.val(),
        }
    }

    /// Added to the mean square.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Normalises the rows of `[rows, features]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        rms_norm(x, self.factor(), self.epsilon)
    }

    /// Normalises each head of `[tokens, heads, features]`.
    pub fn forward_heads(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [tokens, heads, features] = x.dims();
        self.forward(x.reshape([tokens * heads, features])).reshape([tokens, heads, features])
    }

    fn has_offset(&self) -> bool {
        self.offset != 0.0
    }
}
