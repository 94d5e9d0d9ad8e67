//! A linear layer with a frozen or trained weight and, where one is attached, an adapter.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burnish_kernels::{FusedBackend, linear, lora_linear};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::weight::Weight;

/// `y = x Wᵀ + b`, plus the adapter's part.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[out, in]`.
    pub weight: Weight<B, 2>,
    /// `[out]`.
    pub bias: Option<Weight<B, 1>>,
    /// The low-rank update, where one is attached.
    pub adapter: Option<LowRank<B>>,
    #[module(skip)]
    name: String,
}

/// A low-rank update `scale · B A` of a linear layer.
///
/// Source: Hu et al. 2021, "LoRA"; names and shapes as PEFT keeps them.
#[derive(Module, Debug)]
pub struct LowRank<B: Backend> {
    /// `[rank, in]`, f32 whatever the layer's dtype.
    pub lora_a: Param<Tensor<B, 2>>,
    /// `[out, rank]`, f32 too.
    pub lora_b: Param<Tensor<B, 2>>,
    /// `alpha / rank`, or `alpha / √rank`.
    pub scale: f64,
    /// Probability with which an input element of the adapter is dropped in training.
    pub dropout: f64,
}

/// Seeds the dropout of one forward pass; the same seed gives the same masks on every backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSeed(pub u64);

impl<B: Backend> Linear<B> {
    /// A layer without an adapter; `name` is the checkpoint's, without `.weight`.
    pub fn new(name: &str, weight: Weight<B, 2>, bias: Option<Weight<B, 1>>) -> Self {
        Self { weight, bias, adapter: None, name: name.to_owned() }
    }

    /// The checkpoint's name, without `.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<B: FusedBackend> Linear<B> {
    /// Applies the layer to `[rows, in]`; `dropout` is given in training only.
    pub fn forward(&self, x: Tensor<B, 2>, dropout: Option<DropoutSeed>) -> Tensor<B, 2> {
        let y = match &self.adapter {
            None => linear(x, self.weight.val()),
            Some(adapter) => match dropout.filter(|_| adapter.dropout > 0.0) {
                Some(seed) => linear(x.clone(), self.weight.val()) + adapter.forward(adapter.drop(x, seed)),
                None if matches!(self.weight, Weight::Trainable(_)) => {
                    linear(x.clone(), self.weight.val()) + adapter.forward(x)
                }
                None => lora_linear(x, self.weight.val(), adapter.lora_a.val(), adapter.lora_b.val(), adapter.scale),
            },
        };
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.val().dims()
    }
}

impl<B: FusedBackend> LowRank<B> {
    /// The update alone: `scale · (x Aᵀ) Bᵀ`, in the dtype of `x`.
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (lora_a, lora_b) = (self.lora_a.val().cast(x.dtype()), self.lora_b.val().cast(x.dtype()));
        linear(linear(x, lora_a), lora_b).mul_scalar(self.scale)
    }

    /// Zeroes elements of `x` and scales the others up, by a mask that the seed and the layer's name decide.
    fn drop(&self, x: Tensor<B, 2>, seed: DropoutSeed) -> Tensor<B, 2> {
        let [rows, features] = x.dims();
        let mut random = ChaCha8Rng::seed_from_u64(seed.0 ^ self.lora_a.id.val());
        let keep = 1.0 / (1.0 - self.dropout);
        let threshold = (self.dropout * 2f64.powi(32)) as u32;
        let mask: Vec<f32> =
            (0..rows * features).map(|_| if random.next_u32() < threshold { 0.0 } else { keep as f32 }).collect();
        let mask = Tensor::<B, 2>::from_data(TensorData::new(mask, [rows, features]), (&x.device(), x.dtype()));
        x * mask
    }
}
