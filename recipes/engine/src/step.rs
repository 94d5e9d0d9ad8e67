//! Forward and backward of one optimizer step.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Int, Tensor, TensorData};
use burnish_kernels::{FusedBackend, TrainBackend, linear_cross_entropy, select_rows, squared_norm};
use burnish_models::{AnyTensor, DropoutSeed, LanguageModel, ModelInput};

use crate::batch::Batch;

/// What training runs on: burn's autodiff, which recomputes what is cheap, such as norms and activations, instead of keeping it.
pub type Training<B> = Autodiff<B, BalancedCheckpointing>;

/// The micro-batches of one optimizer step.
#[derive(Debug, Clone)]
pub struct StepItem {
    /// From 1.
    pub step: usize,
    /// From 0.
    pub epoch: usize,
    /// The micro-batches.
    pub batches: Vec<Batch>,
    /// Seeds dropout, with the step and the number of the micro-batch.
    pub seed: u64,
    /// Factor on the loss for the backward, and so on the gradients; 1 but for f16.
    pub loss_scale: f64,
}

impl StepItem {
    /// Tokens that are predicted.
    pub fn target_tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.target_tokens).sum()
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.tokens).sum()
    }
}

/// A batch on a device.
pub(crate) fn input<B: FusedBackend>(batch: &Batch, device: &B::Device) -> ModelInput<B> {
    ModelInput::packed(&batch.input_ids, &batch.position_ids, &batch.segment_ids, batch.length, device)
}

/// The summed loss of a batch, `[1]`.
pub fn batch_loss<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    dropout: Option<DropoutSeed>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let input = ModelInput { dropout, ..input(batch, device) };
    let (places, labels) = batch.targets();
    let count = places.len();
    let ints = |values: Vec<i32>| Tensor::<B, 1, Int>::from_data(TensorData::new(values, [count]), device);
    let hidden = select_rows(model.hidden_states(&input, None), ints(places));
    linear_cross_entropy(hidden, model.head(), ints(labels)).sum()
}

/// Mean loss of a step, `[1]`, and the gradients of everything that trains.
///
/// Each micro-batch's loss is divided by the tokens of the whole step, so that the step does not depend on how its rows were split.
/// The gradients are those of the loss times `item.loss_scale`; the loss itself is not scaled.
pub fn gradients<B: TrainBackend>(
    model: &LanguageModel<B>,
    item: &StepItem,
    device: &B::Device,
) -> (Tensor<B::InnerBackend, 1>, GradientsParams) {
    let tokens = item.target_tokens() as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut total: Option<Tensor<B::InnerBackend, 1>> = None;
    for (index, batch) in item.batches.iter().enumerate() {
        let seed = DropoutSeed { seed: item.seed, step: item.step as u32, micro_batch: index as u32 };
        let loss = batch_loss(model, batch, Some(seed), device).div_scalar(tokens);
        let value = loss.clone().inner();
        // Only f16 scales: times 1 is a launch for nothing.
        let is_scaled = (item.loss_scale - 1.0).abs() > 0.0;
        let scaled = if is_scaled { loss.mul_scalar(item.loss_scale) } else { loss };
        accumulator.accumulate(model, GradientsParams::from_grads(scaled.backward(), model));
        total = Some(match total {
            Some(total) => total + value,
            None => value,
        });
    }
    (total.unwrap_or_else(|| Tensor::zeros([1], device)), accumulator.grads())
}

/// The squared norm of all gradients together, `[1]`.
pub fn squared_gradient_norm<B: TrainBackend>(
    model: &LanguageModel<B>,
    grads: &GradientsParams,
    device: &B::Device,
) -> Tensor<B::InnerBackend, 1> {
    let gradients = model.parameters().into_iter().filter_map(|parameter| match parameter.tensor {
        AnyTensor::Vector(_) => grads.get::<B::InnerBackend, 1>(parameter.id).map(|grad| grad.into_primitive().tensor()),
        AnyTensor::Matrix(_) => grads.get::<B::InnerBackend, 2>(parameter.id).map(|grad| grad.into_primitive().tensor()),
    });
    squared_norm(gradients.collect(), device)
}
