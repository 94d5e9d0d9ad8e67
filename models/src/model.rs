//! The language model of any family.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use burnish_kernels::{FusedBackend, soft_cap};

use crate::blocks::{Block, BlockState, Stream};
use crate::cache::{Cache, LayerCache};
use crate::checkpoint::{Checkpoint, check_shapes};
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Matrix};
use crate::dora::{Magnitude, magnitude_name};
use crate::error::{ModelError, Result};
use crate::input::ModelInput;
use crate::input_squares::InputSquares;
use crate::linear::{Linear, LowRank};
use crate::load_options::LoadOptions;
use crate::loader::Loader;
use crate::part::declared_tensors;
use crate::stacked::{ExpertStack, StackedLowRank};
use crate::storage::Storage;
use crate::weight::{AnyTensor, BaseTensor, MatrixWeight, NamedParameter, VectorWeight};

/// A language model.
///
/// [`LanguageModel::hidden_states`] is the whole forward pass up to the last norm. Its steps can also be called separately:
/// [`LanguageModel::embed`], then [`LanguageModel::block`] for each block, then [`LanguageModel::finish`].
#[derive(Module, Debug)]
pub struct LanguageModel<B: Backend> {
    decoder: Decoder<B>,
}

/// Refuses to train the weights of experts: those that no token of a step chose would have no gradient.
fn check_trainable(config: &ModelConfig) -> Result<()> {
    match &config.experts {
        Some(experts) => Err(ModelError::Config {
            reason: format!("the weights of a model with {} experts can't be trained, only adapters on it", experts.count),
        }),
        None => Ok(()),
    }
}

impl<B: FusedBackend> LanguageModel<B> {
    /// Loads the weights of a checkpoint to the device, one tensor at a time.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`](crate::ModelError::Mismatch) lists every tensor that is missing or has another shape;
    /// [`ModelError::Overflow`](crate::ModelError::Overflow) if a weight is outside the range of the type; an error that
    /// names tensor and file if a matrix can't be read, or can't be stored as the options say.
    pub fn load(
        config: &ModelConfig,
        checkpoint: &dyn Checkpoint,
        device: &B::Device,
        options: LoadOptions,
    ) -> Result<Self> {
        Self::check_checkpoint(config, checkpoint)?;
        if options.trainable {
            check_trainable(config)?;
        }
        let mut loader = Loader::from_checkpoint(checkpoint, device.clone(), options)?;
        Ok(Self { decoder: Decoder::load(config, &mut loader)? })
    }

    /// A model with random weights, all trainable and in f32. The same seed gives the same weights.
    ///
    /// # Errors
    /// If the family lacks a part that the decoder needs, and [`ModelError::Config`] if the model has experts.
    pub fn random(config: &ModelConfig, seed: u64, device: &B::Device) -> Result<Self> {
        check_trainable(config)?;
        Ok(Self { decoder: Decoder::load(config, &mut Loader::random(seed, device.clone()))? })
    }

    /// Every tensor that a checkpoint of this configuration has, with its shape.
    pub fn tensor_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        declared_tensors(config).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    /// The names of [`LanguageModel::linears`], without loading a model.
    pub fn linear_names(config: &ModelConfig) -> Vec<String> {
        let linears = declared_tensors(config).into_iter().filter(|tensor| tensor.part.role.is_linear());
        linears.filter_map(|tensor| tensor.name.strip_suffix(".weight").map(str::to_owned)).collect()
    }

    /// Checks that a checkpoint has every tensor of the configuration, without loading it.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`](crate::ModelError::Mismatch) lists every tensor that is missing or has another shape.
    pub fn check_checkpoint(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> Result<()> {
        check_shapes(checkpoint, &Self::tensor_shapes(config))
    }

    /// What all blocks of a forward pass over that input share.
    pub fn state(&self, input: &ModelInput<B>) -> BlockState<B> {
        self.decoder.state(input)
    }

    /// The residual stream before the first block.
    pub fn embed(&self, input: &ModelInput<B>) -> Stream<B> {
        self.decoder.embed(input)
    }

    /// The residual stream after the block of that index.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(
        &self,
        index: usize,
        stream: Stream<B>,
        state: &BlockState<B>,
        cache: Option<&mut LayerCache<B>>,
    ) -> Stream<B> {
        self.decoder.blocks[index].forward(stream, state, cache)
    }

    /// The hidden states after the last norm, `[batch · length, hidden_size]`, from the stream after the last block. If the
    /// configuration has `logits_scaling`, they are divided by it.
    pub fn finish(&self, stream: Stream<B>) -> Tensor<B, 2> {
        self.decoder.finish(stream)
    }

    /// The hidden states after the last norm, `[batch · length, hidden_size]`. With a cache, the input continues the tokens that
    /// the cache holds.
    pub fn hidden_states(&self, input: &ModelInput<B>, mut cache: Option<&mut Cache<B>>) -> Tensor<B, 2> {
        if let Some(cache) = cache.as_deref_mut() {
            cache.is_long = self.decoder.is_long(cache.len() + input.tokens.dims()[1]);
        }
        let state = self.state(input);
        let mut stream = self.embed(input);
        for index in 0..self.num_layers() {
            stream = self.block(index, stream, &state, cache.as_deref_mut().map(|cache| cache.layer(index)));
        }
        self.finish(stream)
    }

    /// Runs an input, and returns with the name of each of [`LanguageModel::linears`] the squares of its inputs, of the first `rows` rows
    /// of hidden states.
    pub fn input_squares(&mut self, input: &ModelInput<B>, rows: usize) -> Vec<(String, InputSquares)> {
        let observed = self.linears_mut().into_iter().map(|(name, linear)| {
            let squares = InputSquares::of_rows(rows);
            linear.observer = Some(squares.clone());
            (name, squares)
        });
        let observed = observed.collect();
        drop(self.hidden_states(input, None));
        self.linears_mut().into_iter().for_each(|(_, linear)| linear.observer = None);
        observed
    }

    /// Whether the keys in the cache can't be used for a text with that number of tokens, because it has other rotary frequencies.
    pub fn must_forget(&self, cache: &Cache<B>, tokens: usize) -> bool {
        !cache.is_empty() && cache.is_long != self.decoder.is_long(tokens)
    }

    /// The logits, `[rows, vocab_size]`, of hidden states, `[rows, hidden_size]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let logits = self.decoder.head().linear(hidden);
        match self.decoder.logits_softcap {
            Some(cap) => soft_cap(logits, cap),
            None => logits,
        }
    }

    /// The loss of each row of hidden states, `[rows]` and f32, without all logits in memory; `hidden` is `[rows, hidden_size]` and
    /// `labels` are the tokens that the rows predict, `[rows]`.
    pub fn losses(&self, hidden: Tensor<B, 2>, labels: Tensor<B, 1, Int>) -> Tensor<B, 1> {
        self.decoder.head().linear_cross_entropy(hidden, labels, self.decoder.logits_softcap)
    }

    /// The embedding, and the head if it is not the embedding.
    pub fn matrices(&self) -> Vec<&Matrix<B>> {
        [Some(&self.decoder.embedding), self.decoder.head.as_ref()].into_iter().flatten().collect()
    }

    /// Mutable references to [`LanguageModel::matrices`].
    pub fn matrices_mut(&mut self) -> Vec<&mut Matrix<B>> {
        [Some(&mut self.decoder.embedding), self.decoder.head.as_mut()].into_iter().flatten().collect()
    }

    /// The checkpoint name that the head would have if it were not the embedding; `None` if it is not, or if the family names none.
    pub fn tied_head(&self) -> Option<&str> {
        self.decoder.head_name.as_deref().filter(|_| self.decoder.head.is_none())
    }

    /// Freezes the embedding and the head, which may have been trained in f32, in the type that the model computes in.
    pub fn freeze_matrices(&mut self) {
        self.decoder.freeze_matrices();
    }

    /// An empty cache for this model.
    pub fn new_cache(&self) -> Cache<B> {
        Cache::new(self.num_layers())
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block<B>] {
        &self.decoder.blocks
    }

    /// The number of blocks.
    pub fn num_layers(&self) -> usize {
        self.decoder.blocks.len()
    }

    /// The number of elements of an attention head; 0 without blocks.
    pub fn head_dim(&self) -> usize {
        self.blocks().first().map_or(0, |block| block.attention.head_dim())
    }

    /// The linear layers of the blocks, to which adapters can be attached, with their checkpoint names without `.weight`.
    pub fn linears(&self) -> Vec<(String, &Linear<B>)> {
        let linears = self.decoder.blocks.iter().flat_map(Block::linears);
        linears.map(|linear| (linear.name().to_owned(), linear)).collect()
    }

    /// Mutable references to [`LanguageModel::linears`].
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear<B>)> {
        let linears = self.decoder.blocks.iter_mut().flat_map(Block::linears_mut);
        linears.map(|linear| (linear.name().to_owned(), linear)).collect()
    }

    /// The routers of blocks with experts, with their checkpoint names without `.weight`. Adapters can be attached to them as to
    /// [`LanguageModel::linears`].
    pub fn routers(&self) -> Vec<(String, &Linear<B>)> {
        let routers = self.decoder.blocks.iter().filter_map(Block::router);
        routers.map(|router| (router.name().to_owned(), router)).collect()
    }

    /// Mutable references to [`LanguageModel::linears`] and [`LanguageModel::routers`].
    pub fn adaptable_mut(&mut self) -> Vec<(String, &mut Linear<B>)> {
        self.decoder
            .blocks
            .iter_mut()
            .flat_map(Block::adaptable_mut)
            .map(|linear| (linear.name().to_owned(), linear))
            .collect()
    }

    /// The parameters that hold the experts of a layer, to which adapters can be attached.
    pub fn stacks(&self) -> Vec<&ExpertStack<B>> {
        self.decoder.blocks.iter().flat_map(Block::stacks).collect()
    }

    /// Mutable references to [`LanguageModel::stacks`].
    pub fn stacks_mut(&mut self) -> Vec<&mut ExpertStack<B>> {
        let experts = self.decoder.blocks.iter_mut().filter_map(|block| block.mlp.experts_mut());
        experts.flat_map(|experts| &mut experts.stacks).collect()
    }

    /// Whether anything of the model has an adapter.
    pub fn has_adapter(&self) -> bool {
        let mut linears = self.linears().into_iter().chain(self.routers());
        linears.any(|(_, linear)| linear.adapter.is_some()) || self.stacks().iter().any(|stack| stack.adapter.is_some())
    }

    /// Makes the current adapters those of the reference model too.
    pub fn keep_reference(&mut self) {
        self.adaptable_mut().into_iter().filter_map(|(_, linear)| linear.adapter.as_mut()).for_each(LowRank::keep_reference);
        self.stacks_mut().into_iter().filter_map(|stack| stack.adapter.as_mut()).for_each(StackedLowRank::keep_reference);
    }

    /// Every weight of the base with its checkpoint name and stored value; adapters are left out.
    pub fn weights(&self) -> Vec<(String, BaseTensor<B>)> {
        let mut weights = Vec::new();
        let decoder = &self.decoder;
        for matrix in self.matrices() {
            weights.push((matrix.name.clone(), BaseTensor::Matrix(matrix.weight.operand())));
        }
        let norms = decoder.blocks.iter().flat_map(Block::norms).chain([&decoder.norm]);
        weights.extend(norms.map(|norm| (norm.name().to_owned(), BaseTensor::Vector(norm.stored()))));
        let sinks = decoder.blocks.iter().filter_map(|block| block.attention.sinks.as_ref());
        weights.extend(sinks.map(|sinks| (sinks.name.clone(), BaseTensor::Vector(sinks.weight.clone()))));
        let experts = decoder.blocks.iter().flat_map(Block::expert_linears);
        let linears = self.linears().into_iter().chain(self.routers()).map(|(_, linear)| linear).chain(experts);
        for linear in linears {
            let name = linear.name();
            weights.push((format!("{name}.weight"), BaseTensor::Matrix(linear.weight.operand())));
            weights.extend(linear.bias.as_ref().map(|bias| (format!("{name}.bias"), BaseTensor::Vector(bias.val()))));
        }
        weights
    }

    /// Whether the embedding is trained.
    pub fn trains_embedding(&self) -> bool {
        self.decoder.embedding.num_params() > 0
    }

    /// What the weights of the base are stored as, with their bytes.
    pub fn storage(&self) -> Storage {
        let mut storage = Storage::default();
        self.weights().iter().for_each(|(_, tensor)| storage.add(tensor.kind(), tensor.bytes()));
        storage
    }

    /// Every trainable tensor: factors of adapters as `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, magnitudes as
    /// `<layer>.lora_magnitude_vector`, and trainable weights with their checkpoint names. Those of experts have the name of their
    /// parameter as the layer's.
    pub fn parameters(&self) -> Vec<NamedParameter<B>> {
        let mut parameters = Vec::new();
        for stack in self.stacks() {
            let Some(adapter) = &stack.adapter else { continue };
            for (part, param) in [("lora_A", &adapter.lora_a), ("lora_B", &adapter.lora_b)] {
                let name = format!("{}.{part}.weight", stack.parameter().name());
                parameters.push(NamedParameter { name, id: param.id, tensor: AnyTensor::Matrix(param.val()) });
            }
        }
        for (name, linear) in self.linears().into_iter().chain(self.routers()) {
            if let Some(adapter) = &linear.adapter {
                for (part, param) in [("lora_A", &adapter.lora_a), ("lora_B", &adapter.lora_b)] {
                    let name = format!("{name}.{part}.weight");
                    parameters.push(NamedParameter { name, id: param.id, tensor: AnyTensor::Matrix(param.val()) });
                }
                if let Some(Magnitude { lora_magnitude_vector: param, .. }) = &adapter.magnitude {
                    let (name, tensor) = (magnitude_name(&name), AnyTensor::Vector(param.val()));
                    parameters.push(NamedParameter { name, id: param.id, tensor });
                }
            }
        }
        let vector = |name: String, weight: &VectorWeight<B>| match weight {
            VectorWeight::Trainable(param) => {
                Some(NamedParameter { name, id: param.id, tensor: AnyTensor::Vector(param.val()) })
            }
            VectorWeight::Frozen(_) => None,
        };
        let matrix = |name: String, weight: &MatrixWeight<B>| match weight {
            MatrixWeight::Trainable(param) => {
                Some(NamedParameter { name, id: param.id, tensor: AnyTensor::Matrix(param.val()) })
            }
            MatrixWeight::Frozen(_) => None,
        };
        let decoder = &self.decoder;
        for part in self.matrices() {
            parameters.extend(matrix(part.name.clone(), &part.weight));
        }
        let norms = decoder.blocks.iter().flat_map(Block::norms).chain([&decoder.norm]);
        parameters.extend(norms.filter_map(|norm| vector(norm.name().to_owned(), norm.weight())));
        for (name, linear) in self.linears() {
            parameters.extend(matrix(format!("{name}.weight"), &linear.weight));
            parameters.extend(linear.bias.as_ref().and_then(|bias| vector(format!("{name}.bias"), bias)));
        }
        parameters
    }
}
