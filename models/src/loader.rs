//! From a checkpoint, or from random numbers, to the tensors of a model.

use burn::tensor::{Tensor, TensorData};
use burnish_kernels::FusedBackend;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::weight::{Weight, parameter_id};

/// Standard deviation of fresh weights, `initializer_range` of transformers.
const INITIAL_DEVIATION: f64 = 0.02;

/// Where the weights come from.
enum Origin<'a> {
    Checkpoint(&'a dyn Checkpoint),
    Random(u64),
}

/// Brings one tensor at a time to the device.
pub struct Loader<'a, B: FusedBackend> {
    origin: Origin<'a>,
    device: B::Device,
    trainable: bool,
}

impl<'a, B: FusedBackend> Loader<'a, B> {
    /// Reads from a checkpoint; with `trainable` every weight becomes a parameter.
    pub fn from_checkpoint(checkpoint: &'a dyn Checkpoint, device: B::Device, trainable: bool) -> Self {
        Self { origin: Origin::Checkpoint(checkpoint), device, trainable }
    }

    /// Draws fresh weights, all of them trainable.
    pub fn random(seed: u64, device: B::Device) -> Self {
        Self { origin: Origin::Random(seed), device, trainable: true }
    }

    /// A matrix.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight<B, 2>> {
        let values = self.values(name, &[rows, columns], |random| INITIAL_DEVIATION * normal(random))?;
        let tensor = Tensor::from_data(TensorData::new(values, [rows, columns]), &self.device);
        Ok(Weight::new(name, tensor, self.trainable))
    }

    /// The weight of a norm.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn norm(&mut self, name: &str, features: usize) -> Result<Weight<B, 1>> {
        let values = self.values(name, &[features], |_| 1.0)?;
        Ok(Weight::new(name, Tensor::from_data(TensorData::new(values, [features]), &self.device), self.trainable))
    }

    /// A linear layer; `name` is without `.weight`.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear<B>> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias = bias
            .then(|| {
                let name = format!("{name}.bias");
                let values = self.values(&name, &[outputs], |_| 0.0)?;
                let tensor = Tensor::from_data(TensorData::new(values, [outputs]), &self.device);
                Ok::<_, ModelError>(Weight::new(&name, tensor, self.trainable))
            })
            .transpose()?;
        Ok(Linear { weight, bias, adapter: None })
    }

    fn values(&self, name: &str, shape: &[usize], fresh: impl Fn(&mut ChaCha8Rng) -> f64) -> Result<Vec<f32>> {
        match self.origin {
            Origin::Checkpoint(checkpoint) => {
                let values = checkpoint.read_f32(name)?;
                if values.len() != shape.iter().product::<usize>() {
                    let problem = format!("{name}: {} elements found, {shape:?} wanted", values.len());
                    return Err(ModelError::Misfit { problems: vec![problem] });
                }
                Ok(values)
            }
            // Each tensor has a stream of its own, so that its values don't depend on the order of loading.
            Origin::Random(seed) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(name).val());
                Ok((0..shape.iter().product::<usize>()).map(|_| fresh(&mut random) as f32).collect())
            }
        }
    }
}

/// A draw from the standard normal distribution (Box and Muller 1958).
pub fn normal(random: &mut ChaCha8Rng) -> f64 {
    let uniform = |random: &mut ChaCha8Rng| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * uniform(random)).cos()
}
