//! One optimizer step of a language model, as burn-train wants it.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use burn_train::metric::{Adaptor, LossInput};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use burnish_kernels::{FusedBackend, TrainBackend, linear_cross_entropy, select_rows};
use burnish_models::{DropoutSeed, LanguageModel, ModelInput};

use crate::data::{Batch, IGNORE};

/// A language model with burn-train's steps.
#[derive(Module, Debug)]
pub struct TrainedModel<B: Backend> {
    /// The model.
    pub model: LanguageModel<B>,
}

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

    /// Tokens that are no padding.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.tokens).sum()
    }
}

/// The mean loss of a step over all its predicted tokens.
#[derive(Debug, Clone)]
pub struct StepOutput<B: Backend> {
    /// `[1]`.
    pub loss: Tensor<B, 1>,
}

impl<B: Backend> Adaptor<LossInput<B>> for StepOutput<B> {
    fn adapt(&self) -> LossInput<B> {
        LossInput::new(self.loss.clone())
    }
}

impl<B: Backend> ItemLazy for StepOutput<B> {
    type ItemSync = StepOutput<burn::backend::Flex>;

    fn sync(self) -> Self::ItemSync {
        StepOutput { loss: Tensor::from_data(self.loss.into_data(), &Default::default()) }
    }
}

/// The summed loss of a batch, `[1]`.
pub fn batch_loss<B: FusedBackend>(
    model: &LanguageModel<B>,
    batch: &Batch,
    dropout: Option<DropoutSeed>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let mut input = ModelInput::packed(&batch.input_ids, &batch.position_ids, &batch.segment_ids, batch.length, device);
    input.dropout = dropout;
    let (places, labels) = targets(batch);
    let count = places.len();
    let ints = |values: Vec<i32>| Tensor::<B, 1, Int>::from_data(TensorData::new(values, [count]), device);
    let hidden = select_rows(model.hidden_states(&input, None), ints(places));
    linear_cross_entropy(hidden, model.head(), ints(labels)).sum()
}

/// Where a hidden state predicts a label: indices of the hidden states, and the labels.
fn targets(batch: &Batch) -> (Vec<i32>, Vec<i32>) {
    let learned = batch.labels.iter().enumerate().filter(|(index, label)| **label != IGNORE && index % batch.length != 0);
    learned.map(|(index, label)| (index as i32 - 1, *label as i32)).unzip()
}

impl<B: TrainBackend> TrainStep for TrainedModel<B> {
    type Input = StepItem;
    type Output = StepOutput<B::InnerBackend>;

    /// Forward and backward of every micro-batch. Each loss is divided by the tokens of the whole step, so that the
    /// step does not depend on how its rows were split. Gradients are those of the scaled loss, the loss is not scaled.
    fn step(&self, item: StepItem) -> TrainOutput<Self::Output> {
        let device = self.model.head().device();
        let tokens = item.target_tokens() as f64;
        let mut accumulator = GradientsAccumulator::new();
        let mut total: Option<Tensor<B::InnerBackend, 1>> = None;
        for (index, batch) in item.batches.iter().enumerate() {
            let seed = DropoutSeed { seed: item.seed, step: item.step as u32, micro_batch: index as u32 };
            let loss = batch_loss(&self.model, batch, Some(seed), &device).div_scalar(tokens);
            let value = loss.clone().inner();
            // Only f16 scales: times 1 is a launch for nothing.
            let is_scaled = (item.loss_scale - 1.0).abs() > 0.0;
            let scaled = if is_scaled { loss.mul_scalar(item.loss_scale) } else { loss };
            accumulator.accumulate(self, GradientsParams::from_grads(scaled.backward(), self));
            total = Some(match total {
                Some(total) => total + value,
                None => value,
            });
        }
        let loss = total.unwrap_or_else(|| Tensor::zeros([1], &device));
        TrainOutput { grads: accumulator.grads(), item: StepOutput { loss } }
    }
}

impl<B: FusedBackend> InferenceStep for TrainedModel<B> {
    type Input = StepItem;
    type Output = StepOutput<B>;

    fn step(&self, item: StepItem) -> Self::Output {
        let device = self.model.head().device();
        let tokens = item.target_tokens() as f64;
        let losses = item.batches.iter().map(|batch| batch_loss(&self.model, batch, None, &device));
        let total = losses.reduce(|a, b| a + b).unwrap_or_else(|| Tensor::zeros([1], &device));
        StepOutput { loss: total.div_scalar(tokens) }
    }
}
