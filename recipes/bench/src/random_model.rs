//! A model of random weights, made within seconds whatever its size.

use std::collections::BTreeMap;

use burnish_kernels::FusedBackend;
use burnish_models::error::Result;
use burnish_models::weight::parameter_id;
use burnish_models::{Checkpoint, FloatType, LanguageModel, LoadOptions, ModelConfig, ModelError};
use rayon::prelude::*;

use super::setup::Splitmix;

/// A checkpoint that has every tensor of a model, with values from a hash.
struct RandomWeights {
    shapes: BTreeMap<String, Vec<usize>>,
    /// The type that they count as stored in.
    dtype: FloatType,
}

/// Uniform within this has the standard deviation 0.02 of fresh weights.
const BOUND: f32 = 0.02 * 1.732_050_8;

/// Elements that one seed gives.
const STRETCH: usize = 1 << 16;

impl Checkpoint for RandomWeights {
    fn names(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let missing = || ModelError::Mismatch { problems: vec![format!("{name}: missing")] };
        let shape = self.shapes.get(name).ok_or_else(missing)?;
        // Vectors are norm weights.
        let mut values = vec![1.0; shape.iter().product()];
        if shape.len() > 1 {
            let seed = parameter_id(name).val();
            values.par_chunks_mut(STRETCH).enumerate().for_each(|(index, stretch)| {
                let mut random = Splitmix(seed.wrapping_add((index as u64) << 32));
                for pair in stretch.chunks_mut(2) {
                    let bits = random.draw();
                    pair.iter_mut().zip([bits >> 40, bits & 0xff_ffff]).for_each(|(value, bits)| *value = uniform(bits));
                }
            });
        }
        Ok(values)
    }

    fn float_type(&self, _name: &str) -> Option<FloatType> {
        Some(self.dtype)
    }
}

/// From 24 bits.
fn uniform(bits: u64) -> f32 {
    (bits as f32 / (1 << 23) as f32 - 1.0) * BOUND
}

/// A model of random weights, frozen or trained. Those that are quantised come from the type that the model computes in.
///
/// # Errors
/// When no family has such a configuration, or weights are trained that are not f32.
pub fn random_model<B: FusedBackend>(
    config: &ModelConfig,
    options: LoadOptions,
    device: &B::Device,
) -> Result<LanguageModel<B>> {
    let shapes = LanguageModel::<B>::tensor_shapes(config).into_iter().collect();
    LanguageModel::load(config, &RandomWeights { shapes, dtype: options.dtype }, device, options)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::shape::Shape;

    #[test]
    fn weights_have_mean_zero_and_the_deviation_of_fresh_ones() {
        let shapes = [("a".to_owned(), vec![300, 1001]), ("norm".to_owned(), vec![5])];
        let weights = RandomWeights { shapes: shapes.into(), dtype: FloatType::F32 };
        let values = weights.read_f32("a").unwrap();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!(mean.abs() < 1e-4 && (deviation - 0.02).abs() < 1e-4, "{mean} {deviation}");
        assert_eq!((values, weights.read_f32("norm").unwrap()), (weights.read_f32("a").unwrap(), vec![1.0; 5]));
        assert!(weights.read_f32("b").is_err());
    }

    #[test]
    fn a_shape_becomes_a_frozen_model() {
        let config = Shape::open("llama-3.2-1b").unwrap().shrunk(2).config;
        let options = LoadOptions::frozen(FloatType::F32);
        let model = random_model::<Flex>(&config, options, &Default::default()).unwrap();
        assert_eq!((model.num_layers(), model.parameters().len()), (2, 0));
    }
}
