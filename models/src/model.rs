//! Any model of any family, behind one type.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{FusedBackend, linear};

use crate::cache::Cache;
use crate::checkpoint::{Checkpoint, check_fit};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::input::ModelInput;
use crate::linear::Linear;
use crate::llama::Llama;
use crate::loader::{LoadOptions, Loader};
use crate::weight::{AnyTensor, NamedParameter, Weight};

/// The `model_type`s that have a family here.
pub const MODEL_TYPES: &[&str] = &["llama", "mistral"];

/// A language model.
#[derive(Module, Debug)]
pub enum LanguageModel<B: Backend> {
    /// Llama, SmolLM2, TinyLlama, Mistral.
    Llama(Llama<B>),
}

impl<B: FusedBackend> LanguageModel<B> {
    /// Reads the weights of a checkpoint to the device.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`], [`ModelError::Misfit`] with every tensor that is missing or misshapen,
    /// [`ModelError::Overflow`] with a weight that the dtype does not hold, or a file that can't be read.
    pub fn load(
        config: &ModelConfig,
        checkpoint: &dyn Checkpoint,
        device: &B::Device,
        options: LoadOptions,
    ) -> Result<Self> {
        Self::check_checkpoint(config, checkpoint)?;
        Self::build(config, &mut Loader::from_checkpoint(checkpoint, device.clone(), options)?)
    }

    /// Fresh weights, all trainable, in f32.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`].
    pub fn random(config: &ModelConfig, seed: u64, device: &B::Device) -> Result<Self> {
        Self::build(config, &mut Loader::random(seed, device.clone()))
    }

    fn build(config: &ModelConfig, loader: &mut Loader<B>) -> Result<Self> {
        match config.model_type.as_str() {
            "llama" | "mistral" => Llama::load(config, loader).map(Self::Llama),
            other => Err(unknown(other)),
        }
    }

    /// Every tensor that a checkpoint of this configuration has, with its shape.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`].
    pub fn tensor_shapes(config: &ModelConfig) -> Result<Vec<(String, Vec<usize>)>> {
        match config.model_type.as_str() {
            "llama" | "mistral" => Ok(Llama::<B>::tensor_shapes(config)),
            other => Err(unknown(other)),
        }
    }

    /// Names of [`LanguageModel::linears`], before there is a model.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`].
    pub fn linear_names(config: &ModelConfig) -> Result<Vec<String>> {
        let shapes = Self::tensor_shapes(config)?.into_iter();
        let of_blocks = shapes.filter(|(name, shape)| shape.len() == 2 && name.contains(".layers."));
        Ok(of_blocks.filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned)).collect())
    }

    /// Checks that a checkpoint has every tensor of the configuration.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`], or [`ModelError::Misfit`] with every tensor that is missing or misshapen.
    pub fn check_checkpoint(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> Result<()> {
        check_fit(checkpoint, &Self::tensor_shapes(config)?)
    }

    /// Hidden states after the last norm, `[batch · length, hidden_size]`.
    pub fn hidden_states(&self, input: &ModelInput<B>, cache: Option<&mut Cache<B>>) -> Tensor<B, 2> {
        match self {
            Self::Llama(model) => model.hidden_states(input, cache),
        }
    }

    /// The weight that turns hidden states into logits, `[vocab_size, hidden_size]`.
    pub fn head(&self) -> Tensor<B, 2> {
        match self {
            Self::Llama(model) => model.head(),
        }
    }

    /// Logits of hidden states, `[rows, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(hidden, self.head())
    }

    /// Number of blocks, for the cache.
    pub fn num_layers(&self) -> usize {
        match self {
            Self::Llama(model) => model.layers.len(),
        }
    }

    /// The linear layers that adapters may be attached to, under their checkpoint names without `.weight`.
    pub fn linears(&self) -> Vec<(String, &Linear<B>)> {
        match self {
            Self::Llama(model) => model.linears(),
        }
    }

    /// As [`LanguageModel::linears`], to change them.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear<B>)> {
        match self {
            Self::Llama(model) => model.linears_mut(),
        }
    }

    /// Every weight of the base under its checkpoint name, adapters left out.
    pub fn weights(&self) -> Vec<(String, AnyTensor<B>)> {
        self.collect(|_, weight| Some(AnyTensor::Vector(weight.val())), |_, weight| Some(AnyTensor::Matrix(weight.val())))
    }

    /// Everything that trains: weights under their checkpoint names, adapters as `<layer>.lora_A.weight`.
    pub fn parameters(&self) -> Vec<NamedParameter<B>> {
        let mut parameters = Vec::new();
        for (name, linear) in self.linears() {
            if let Some(adapter) = &linear.adapter {
                for (part, param) in [("lora_A", &adapter.lora_a), ("lora_B", &adapter.lora_b)] {
                    let name = format!("{name}.{part}.weight");
                    parameters.push(NamedParameter { name, id: param.id, tensor: AnyTensor::Matrix(param.val()) });
                }
            }
        }
        let vector = |name: &str, weight: &Weight<B, 1>| match weight {
            Weight::Trainable(param) => {
                Some(NamedParameter { name: name.to_owned(), id: param.id, tensor: AnyTensor::Vector(param.val()) })
            }
            Weight::Frozen(_) => None,
        };
        let matrix = |name: &str, weight: &Weight<B, 2>| match weight {
            Weight::Trainable(param) => {
                Some(NamedParameter { name: name.to_owned(), id: param.id, tensor: AnyTensor::Matrix(param.val()) })
            }
            Weight::Frozen(_) => None,
        };
        parameters.extend(self.collect(vector, matrix).into_iter().map(|(_, parameter)| parameter));
        parameters
    }

    fn collect<T>(
        &self,
        vector: impl Fn(&str, &Weight<B, 1>) -> Option<T>,
        matrix: impl Fn(&str, &Weight<B, 2>) -> Option<T>,
    ) -> Vec<(String, T)> {
        let (vectors, matrices) = match self {
            Self::Llama(model) => model.other_weights(),
        };
        let mut found = Vec::new();
        for (name, weight) in matrices {
            found.extend(matrix(&name, weight).map(|value| (name, value)));
        }
        for (name, weight) in vectors {
            found.extend(vector(&name, weight).map(|value| (name, value)));
        }
        for (name, linear) in self.linears() {
            let weight_name = format!("{name}.weight");
            found.extend(matrix(&weight_name, &linear.weight).map(|value| (weight_name, value)));
            if let Some(bias) = &linear.bias {
                let bias_name = format!("{name}.bias");
                found.extend(vector(&bias_name, bias).map(|value| (bias_name, value)));
            }
        }
        found
    }
}

fn unknown(model_type: &str) -> ModelError {
    ModelError::UnknownModelType { model_type: model_type.to_owned(), known: MODEL_TYPES.join(", ") }
}
