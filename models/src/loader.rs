//! From a checkpoint, or from random numbers, to the tensors of a model.

use burn::tensor::{Tensor, TensorData};
use burnish_kernels::FusedBackend;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Checkpoint;
use crate::dtype::ComputeType;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::weight::{Weight, parameter_id};

/// Standard deviation of fresh weights, `initializer_range` of transformers.
const INITIAL_DEVIATION: f64 = 0.02;

/// What becomes of the weights on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// What they are kept and computed in.
    pub dtype: ComputeType,
    /// Whether they train; then they are f32.
    pub trainable: bool,
}

impl LoadOptions {
    /// Weights that never change, under adapters or none.
    pub fn frozen(dtype: ComputeType) -> Self {
        Self { dtype, trainable: false }
    }

    /// Weights that train.
    pub fn trainable() -> Self {
        Self { dtype: ComputeType::F32, trainable: true }
    }
}

/// Where the weights come from.
enum Origin<'a> {
    Checkpoint(&'a dyn Checkpoint),
    Random(u64),
}

/// Brings one tensor at a time to the device.
pub struct Loader<'a, B: FusedBackend> {
    origin: Origin<'a>,
    device: B::Device,
    options: LoadOptions,
}

impl<'a, B: FusedBackend> Loader<'a, B> {
    /// Reads from a checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Config`] when weights shall train in another dtype than f32.
    pub fn from_checkpoint(checkpoint: &'a dyn Checkpoint, device: B::Device, options: LoadOptions) -> Result<Self> {
        if options.trainable && options.dtype != ComputeType::F32 {
            return Err(ModelError::Config { reason: format!("weights that train are f32, not {}", options.dtype) });
        }
        Ok(Self { origin: Origin::Checkpoint(checkpoint), device, options })
    }

    /// Draws fresh weights, all of them trainable.
    pub fn random(seed: u64, device: B::Device) -> Self {
        Self { origin: Origin::Random(seed), device, options: LoadOptions::trainable() }
    }

    /// A matrix.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight<B, 2>> {
        self.weight(name, [rows, columns], |random| INITIAL_DEVIATION * normal(random))
    }

    /// The weight of a norm that multiplies by `offset` plus it. A frozen one is the sum, computed in f32.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn norm(&mut self, name: &str, features: usize, offset: f64) -> Result<Weight<B, 1>> {
        let LoadOptions { dtype, trainable } = self.options;
        match self.origin {
            Origin::Checkpoint(checkpoint) if offset != 0.0 && !trainable => {
                let mut values = checkpoint.read_f32(name)?;
                for value in &mut values {
                    *value += offset as f32;
                }
                self.place(name, [features], dtype.convert(name, values)?)
            }
            _ => self.weight(name, [features], |_| 1.0 - offset),
        }
    }

    /// A linear layer; `name` is without `.weight`.
    ///
    /// # Errors
    /// When it can't be read or has another size.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear<B>> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias = bias.then(|| self.weight(&format!("{name}.bias"), [outputs], |_| 0.0)).transpose()?;
        Ok(Linear::new(name, weight, bias))
    }

    /// One tensor, on the device. On the host no more of it is kept than the checkpoint hands over.
    fn weight<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        fresh: impl Fn(&mut ChaCha8Rng) -> f64,
    ) -> Result<Weight<B, D>> {
        let dtype = self.options.dtype;
        let wanted = shape.iter().product::<usize>();
        let data = match self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.read(name, dtype)?,
            // Each tensor has a stream of its own, so that its values don't depend on the order of loading.
            Origin::Random(seed) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(name).val());
                dtype.convert(name, (0..wanted).map(|_| fresh(&mut random) as f32).collect())?
            }
        };
        self.place(name, shape, data)
    }

    fn place<const D: usize>(&self, name: &str, shape: [usize; D], data: TensorData) -> Result<Weight<B, D>> {
        let LoadOptions { dtype, trainable } = self.options;
        if data.num_elements() != shape.iter().product::<usize>() {
            let problem = format!("{name}: expected {shape:?}, got {} elements", data.num_elements());
            return Err(ModelError::Misfit { problems: vec![problem] });
        }
        let data = TensorData { shape: shape.into(), ..data };
        // Weights stay: beside activations in the pages of a pool they would hold gigabytes that nothing uses.
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
