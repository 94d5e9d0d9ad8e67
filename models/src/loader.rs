//! Loads the tensors of a model from a checkpoint, or draws random ones.

use burn::tensor::{Tensor, TensorData};
use burnish_kernels::FusedBackend;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::linear::Linear;
use crate::weight::{Weight, parameter_id};

/// Standard deviation of random weights: the default of `initializer_range` in transformers.
const INITIAL_DEVIATION: f64 = 0.02;

/// How weights are kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The type that they are kept in, which the model computes in.
    pub dtype: FloatType,
    /// Whether they are trained; then they must be f32.
    pub trainable: bool,
}

impl LoadOptions {
    /// Weights that are not trained.
    pub fn frozen(dtype: FloatType) -> Self {
        Self { dtype, trainable: false }
    }

    /// Weights that are trained, in f32.
    pub fn trainable() -> Self {
        Self { dtype: FloatType::F32, trainable: true }
    }
}

/// The source of the weights.
enum Origin<'a> {
    Checkpoint(&'a dyn Checkpoint),
    Random(u64),
}

/// Loads one tensor at a time to the device.
pub struct Loader<'a, B: FusedBackend> {
    origin: Origin<'a>,
    device: B::Device,
    options: LoadOptions,
}

impl<'a, B: FusedBackend> Loader<'a, B> {
    /// Loads from a checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the weights are trainable and the type is not f32.
    pub fn from_checkpoint(checkpoint: &'a dyn Checkpoint, device: B::Device, options: LoadOptions) -> Result<Self> {
        if options.trainable && options.dtype != FloatType::F32 {
            return Err(ModelError::Config { reason: format!("trainable weights: expected f32, got {}", options.dtype) });
        }
        Ok(Self { origin: Origin::Checkpoint(checkpoint), device, options })
    }

    /// Draws random weights, all of them trainable.
    pub fn random(seed: u64, device: B::Device) -> Self {
        Self { origin: Origin::Random(seed), device, options: LoadOptions::trainable() }
    }

    /// A matrix of that size.
    ///
    /// # Errors
    /// If it can't be read or has another size.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight<B, 2>> {
        self.weight(name, [rows, columns], |random| INITIAL_DEVIATION * normal(random))
    }

    /// The weight of a norm, `[features]`, which multiplies by the weight plus `offset`. A frozen weight is returned with the
    /// offset added in f32.
    ///
    /// # Errors
    /// If it can't be read or has another size.
    pub fn norm(&mut self, name: &str, features: usize, offset: f64) -> Result<Weight<B, 1>> {
        let LoadOptions { dtype, trainable } = self.options;
        match self.origin {
            Origin::Checkpoint(checkpoint) if offset != 0.0 && !trainable => {
                let mut values = checkpoint.read_f32(name)?;
                for value in &mut values {
                    *value += offset as f32;
                }
                self.upload(name, [features], dtype.convert(name, values)?)
            }
            _ => self.weight(name, [features], |_| 1.0 - offset),
        }
    }

    /// A linear layer with a weight `[outputs, inputs]` and optionally a bias; `name` is its checkpoint name without `.weight`.
    ///
    /// # Errors
    /// If it can't be read or has another size.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear<B>> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias = bias.then(|| self.weight(&format!("{name}.bias"), [outputs], |_| 0.0)).transpose()?;
        Ok(Linear::new(name, weight, bias))
    }

    /// Reads a tensor, or draws it with `draw`, and moves it to the device.
    fn weight<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        draw: impl Fn(&mut ChaCha8Rng) -> f64,
    ) -> Result<Weight<B, D>> {
        let dtype = self.options.dtype;
        let count = shape.iter().product::<usize>();
        let data = match self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.read(name, dtype)?,
            // The seed depends on the name, so the values don't depend on the order of loading.
            Origin::Random(seed) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(name).val());
                dtype.convert(name, (0..count).map(|_| draw(&mut random) as f32).collect())?
            }
        };
        self.upload(name, shape, data)
    }

    /// Moves the values of a tensor to the device.
    fn upload<const D: usize>(&self, name: &str, shape: [usize; D], data: TensorData) -> Result<Weight<B, D>> {
        let LoadOptions { dtype, trainable } = self.options;
        if data.num_elements() != shape.iter().product::<usize>() {
            let problem = format!("{name}: expected {shape:?}, got {} elements", data.num_elements());
            return Err(ModelError::Mismatch { problems: vec![problem] });
        }
        let data = TensorData { shape: shape.into(), ..data };
        // In the pool, weights beside activations would keep pages from being reused.
        let tensor = B::memory_persistent_allocations(&self.device, data, |data| {
            Tensor::from_data(data, (&self.device, dtype.into()))
        });
        Ok(Weight::new(name, tensor, trainable))
    }
}

/// A draw from the standard normal distribution (Box and Muller 1958).
pub fn normal(random: &mut ChaCha8Rng) -> f64 {
    let uniform = |random: &mut ChaCha8Rng| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * uniform(random)).cos()
}
