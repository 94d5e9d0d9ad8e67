//! What a script recorded of transformers and PEFT for a batch of two rows, padded on the right.

use std::path::Path;

use burn::backend::Flex;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::tolerance::Tolerance;
use burnish_kernels::{FusedBackend, select_rows};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::{Checkpoint, LanguageModel, ModelInput};

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
        let bytes = self.values.read_bytes(name).unwrap();
        bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
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

    /// Compares the logits of all tokens but padding.
    pub fn check_logits(&self, name: &str, logits: Tensor<Flex, 2>) {
        let vocabulary = logits.dims()[1];
        let kept: Vec<bool> = self.ints("attention_mask").iter().map(|mask| *mask > 0).collect();
        let pick = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(vocabulary).zip(&kept).filter(|(_, kept)| **kept);
            rows.flat_map(|(row, _)| row.iter().copied()).collect()
        };
        let values: Vec<f32> = logits.into_data().to_vec().unwrap();
        self.close(name, &pick(&values), &pick(&self.values.read_f32(name).unwrap()));
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
