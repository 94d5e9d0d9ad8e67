//! A helper model that came as an ONNX file: it scores the hidden state of an answer.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

#[allow(dead_code, missing_docs, clippy::all, clippy::pedantic, reason = "written by burn-import")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/onnx/reward_head.rs"));
}

/// `σ(W₂ tanh(W₁ LayerNorm(h)))`, made from `assets/reward_head.onnx` when this crate is built.
#[derive(Debug)]
pub struct RewardHead<B: Backend>(generated::Model<B>);

impl<B: Backend> RewardHead<B> {
    /// The head with its weights, which the program carries.
    pub fn new(device: &B::Device) -> Self {
        Self(generated::Model::from_embedded(device))
    }

    /// Scores between 0 and 1.
    ///
    /// # Shapes
    /// `[answers, 128]` to `[answers, 1]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.0.forward(hidden)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::TensorData;
    use serde_json::Value;

    use super::*;

    #[test]
    fn it_scores_as_the_evaluator_of_onnx_does() {
        let golden: Value = serde_json::from_str(include_str!("../assets/reward_head.json")).unwrap();
        let numbers = |value: &Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let rows: Vec<f32> = golden["hidden"].as_array().unwrap().iter().flat_map(numbers).collect();
        let expected = numbers(&golden["score"]);
        let device = Default::default();
        let hidden = Tensor::<Flex, 2>::from_data(TensorData::new(rows, [expected.len(), 128]), &device);
        let scores: Vec<f32> = RewardHead::new(&device).forward(hidden).into_data().to_vec().unwrap();
        for (score, expected) in scores.iter().zip(&expected) {
            assert!((score - expected).abs() < 1e-5, "{scores:?} are not {expected:?}");
        }
        assert!((scores[0] - scores[1]).abs() > 1e-3, "the score does not depend on the answer: {scores:?}");
    }
}
