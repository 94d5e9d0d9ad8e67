//! Loads the tensors of a model from a checkpoint, or draws random ones.

use burn::tensor::{Tensor, TensorData};
use burnish_kernels::packed::PackError;
use burnish_kernels::{FusedBackend, exact_buffers};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::linear::Linear;
use crate::load_options::LoadOptions;
use crate::operand::{Operand, PackedWeight};
use crate::quantization::Quantization;
use crate::storage::{Form, refused};
use crate::weight::{MatrixWeight, VectorWeight, parameter_id, unpadded};

/// Standard deviation of random weights: the default of `initializer_range` in transformers.
const INITIAL_DEVIATION: f64 = 0.02;

/// The source of the weights.
#[derive(Clone, Copy)]
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
    /// [`ModelError::Config`] if the weights are trainable and the type is not f32, or they are to be quantised.
    pub fn from_checkpoint(checkpoint: &'a dyn Checkpoint, device: B::Device, options: LoadOptions) -> Result<Self> {
        let LoadOptions { dtype, trainable, quantization, quantize_embedding } = options;
        let refuse = |reason: String| Err(ModelError::Config { reason: format!("trainable weights: {reason}") });
        if trainable && dtype != FloatType::F32 {
            return refuse(format!("expected f32, got {dtype}"));
        }
        if trainable && quantization.packs_floats() {
            return refuse(format!("expected quantization none, got {quantization}"));
        }
        if trainable && quantize_embedding {
            return refuse("expected an embedding of floats, got one in eight bits".to_owned());
        }
        Ok(Self { origin: Origin::Checkpoint(checkpoint), device, options })
    }

    /// Draws random weights, all of them trainable.
    pub fn random(seed: u64, device: B::Device) -> Self {
        Self { origin: Origin::Random(seed), device, options: LoadOptions::trainable() }
    }

    /// The type that the model computes in.
    pub fn dtype(&self) -> FloatType {
        self.options.dtype
    }

    /// The embedding or the head, `[rows, columns]`.
    ///
    /// # Errors
    /// If it can't be read, has another size, or can't be packed.
    pub fn embedding(&mut self, name: &str, rows: usize, columns: usize) -> Result<MatrixWeight<B>> {
        self.matrix(name, [rows, columns], self.options.of_embedding())
    }

    /// The weight of a norm, `[features]`, which multiplies by the weight plus `offset`. A frozen weight is returned with the
    /// offset added in f32.
    ///
    /// # Errors
    /// If it can't be read or has another size.
    pub fn norm(&mut self, name: &str, features: usize, offset: f64) -> Result<VectorWeight<B>> {
        let LoadOptions { dtype, trainable, .. } = self.options;
        match self.origin {
            Origin::Checkpoint(checkpoint) if offset != 0.0 && !trainable => {
                let mut values = checkpoint.read_f32(name)?;
                for value in &mut values {
                    *value += offset as f32;
                }
                Ok(VectorWeight::Frozen(self.upload(name, [features], dtype.convert(name, values)?)?))
            }
            _ => self.vector(name, features, |_| 1.0 - offset),
        }
    }

    /// A linear layer with a weight `[outputs, inputs]` and optionally a bias; `name` is its checkpoint name without `.weight`.
    ///
    /// # Errors
    /// If a tensor can't be read or has another size, or the weight can't be packed.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear<B>> {
        let weight = self.matrix(&format!("{name}.weight"), [outputs, inputs], self.options.quantization)?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), outputs, |_| 0.0)).transpose()?;
        Ok(Linear::new(name, weight, bias))
    }

    /// A linear layer that is frozen and in f32, whatever the model computes in.
    ///
    /// # Errors
    /// If a tensor can't be read or has another size.
    pub fn router(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear<B>> {
        let loader = self.in_f32();
        let weight = loader.matrix(&format!("{name}.weight"), [outputs, inputs], Quantization::None)?;
        let bias = bias.then(|| loader.vector(&format!("{name}.bias"), outputs, |_| 0.0)).transpose()?;
        Ok(Linear::new(name, weight, bias))
    }

    /// A vector that is frozen and in f32, whatever the model computes in.
    ///
    /// # Errors
    /// If it can't be read or has another size.
    pub fn sinks(&mut self, name: &str, length: usize) -> Result<Tensor<B, 1>> {
        Ok(self.in_f32().vector(name, length, |_| 0.0)?.val())
    }

    /// For what is frozen and in f32, whatever the model computes in.
    fn in_f32(&self) -> Self {
        Self { origin: self.origin, device: self.device.clone(), options: LoadOptions::frozen(FloatType::F32) }
    }

    fn vector(&self, name: &str, length: usize, draw: impl Fn(&mut ChaCha8Rng) -> f64) -> Result<VectorWeight<B>> {
        let data = self.values(name, length, draw)?;
        Ok(VectorWeight::new(name, self.upload(name, [length], data)?, self.options.trainable))
    }

    fn matrix(&self, name: &str, dims: [usize; 2], quantization: Quantization) -> Result<MatrixWeight<B>> {
        if let (Origin::Checkpoint(checkpoint), false) = (&self.origin, self.options.trainable) {
            let checkpoint = *checkpoint;
            let wrong = |error: PackError| refused(checkpoint, name, &error);
            let packed = match Form::of(checkpoint, name, dims, quantization)? {
                Form::Dense { .. } => None,
                Form::Blocks(_) => checkpoint.read_packed(name)?,
                Form::Quantised(kind) => {
                    // From 16 bits to few, scales get 16 bits too.
                    let values = checkpoint.read(name, checkpoint.float_type(name).unwrap_or_default())?;
                    Some(kind.quantize(name, &values, dims).map_err(wrong)?)
                }
            };
            if let Some(packed) = packed {
                let weight = PackedWeight::new(name, &packed, &self.device).map_err(wrong)?;
                return Ok(MatrixWeight::Frozen(Operand::Packed(weight)));
            }
        }
        let data = self.values(name, dims[0] * dims[1], |random| INITIAL_DEVIATION * normal(random))?;
        Ok(MatrixWeight::new(name, self.upload(name, dims, data)?, self.options.trainable))
    }

    /// The values of a tensor, read or drawn with `draw`.
    fn values(&self, name: &str, count: usize, draw: impl Fn(&mut ChaCha8Rng) -> f64) -> Result<TensorData> {
        let dtype = self.options.dtype;
        match self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.read(name, dtype),
            // The seed depends on the name, so the values don't depend on the order of loading.
            Origin::Random(seed) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed ^ parameter_id(name).val());
                dtype.convert(name, (0..count).map(|_| draw(&mut random) as f32).collect())
            }
        }
    }

    /// Moves the values of a tensor to the device.
    fn upload<const D: usize>(&self, name: &str, shape: [usize; D], data: TensorData) -> Result<Tensor<B, D>> {
        if data.num_elements() != shape.iter().product::<usize>() {
            let problem = format!("{name}: expected {shape:?}, got {} elements", data.num_elements());
            return Err(ModelError::Mismatch { problems: vec![problem] });
        }
        // In the pool, weights beside activations would keep pages from being reused.
        Ok(exact_buffers::<B, _>(&self.device, || unpadded(data, shape, &self.device, self.options.dtype.into())))
    }
}

/// A draw from the standard normal distribution (Box and Muller 1958).
pub fn normal(random: &mut ChaCha8Rng) -> f64 {
    let uniform = |random: &mut ChaCha8Rng| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * uniform(random)).cos()
}
