//! What a script recorded of transformers and PEFT for a batch of two rows, padded on the right.

use std::path::Path;

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{FusedBackend, select_rows};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{AnyTensor, Checkpoint, LanguageModel, ModelInput};

use crate::golden::ints;

pub struct GoldenBatch {
    /// Of the folder, for messages.
    name: String,
    pub values: SafetensorsFolder,
}

impl GoldenBatch {
    pub fn open(folder: &Path) -> Self {
        let values = SafetensorsFolder::from_files(&[folder.join("golden.safetensors")]).unwrap();
        Self { name: folder.display().to_string(), values }
    }

    pub fn ints(&self, name: &str) -> Vec<i32> {
        ints(&self.values, name)
    }

    pub fn input<B: FusedBackend>(&self) -> ModelInput<B> {
        let unsigned = |name| self.ints(name).into_iter().map(|value| value as u32).collect::<Vec<_>>();
        let (ids, mask) = (unsigned("input_ids"), unsigned("attention_mask"));
        let length = ids.len() / 2;
        let positions: Vec<u32> = (0..ids.len()).map(|index| (index % length) as u32).collect();
        ModelInput::packed(&ids, &positions, &mask, length, &Default::default())
    }

    pub fn close(&self, name: &str, values: &[f32], expected: &[f32]) {
        Tolerance::of(DType::F32).check(&format!("{} {name}", self.name), values, expected).unwrap();
    }

    /// The values of all tokens but padding.
    pub fn unpadded(&self, values: &[f32]) -> Vec<f32> {
        let mask = self.ints("attention_mask");
        let rows = values.chunks_exact(values.len() / mask.len()).zip(&mask).filter(|(_, mask)| **mask > 0);
        rows.flat_map(|(row, _)| row.iter().copied()).collect()
    }

    /// The recorded values of all tokens but padding.
    pub fn expected(&self, name: &str) -> Vec<f32> {
        self.unpadded(&self.values.read_f32(name).unwrap())
    }

    /// Compares the logits of all tokens but padding.
    pub fn check_logits(&self, name: &str, logits: Tensor<Flex, 2>) {
        let values: Vec<f32> = logits.into_data().to_vec().unwrap();
        self.close(name, &self.unpadded(&values), &self.expected(name));
    }

    /// Compares the gradients of all parameters, which are recorded behind a prefix and the name that PEFT gives them.
    pub fn check_gradients(
        &self,
        loss: &Tensor<Autodiff<Flex>, 1>,
        model: &LanguageModel<Autodiff<Flex>>,
        prefix: &str,
        name_of: impl Fn(&str) -> String,
    ) {
        let (gradients, parameters) = (loss.backward(), model.parameters());
        assert_eq!(parameters.len(), self.values.names().iter().filter(|name| name.starts_with(prefix)).count());
        for parameter in parameters {
            let gradient = match parameter.tensor {
                AnyTensor::Vector(tensor) => tensor.grad(&gradients).unwrap().into_data(),
                AnyTensor::Matrix(tensor) => tensor.grad(&gradients).unwrap().into_data(),
            };
            let name = format!("{prefix}{}", name_of(&parameter.name));
            self.close(&name, &gradient.to_vec::<f32>().unwrap(), &self.values.read_f32(&name).unwrap());
        }
    }

    /// The mean loss over the labels that are not -100.
    pub fn loss<B: FusedBackend>(&self, model: &LanguageModel<B>) -> Tensor<B, 1> {
        let labels = self.ints("labels");
        let length = labels.len() / 2;
        let learned = labels.iter().enumerate().filter(|(index, label)| **label >= 0 && index % length != 0);
        let (positions, labels): (Vec<i32>, Vec<i32>) = learned.map(|(index, label)| (index as i32 - 1, *label)).unzip();
        let count = positions.len();
        let ints = |values: Vec<i32>| Tensor::<B, 1, Int>::from_data(TensorData::new(values, [count]), &Default::default());
        let hidden = select_rows(model.hidden_states(&self.input(), None), ints(positions));
        model.losses(hidden, ints(labels)).sum().div_scalar(count as f64)
    }
}
