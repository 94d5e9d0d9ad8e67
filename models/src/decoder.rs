//! The decoder: embedding, blocks, norm, head.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::FusedBackend;
use half::{bf16, f16};

use crate::blocks::{Block, BlockState, Norm, Stream};
use crate::config::{ModelConfig, QueryScaling};
use crate::error::Result;
use crate::input::ModelInput;
use crate::loader::Loader;
use crate::operand::Operand;
use crate::part::{PartLoader, Role};
use crate::rope::Rope;
use crate::weight::MatrixWeight;

/// A decoder, as its configuration describes it.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    /// The embedding, `[vocab_size, hidden_size]`.
    pub embedding: Matrix<B>,
    /// The blocks.
    pub blocks: Vec<Block<B>>,
    /// The norm before the head.
    pub norm: Norm<B>,
    /// The output head, `[vocab_size, hidden_size]`; `None` if it is the embedding.
    pub head: Option<Matrix<B>>,
    embedding_scale: Option<f64>,
    logits_scaling: Option<f64>,
    #[module(skip)]
    query_scaling: Option<QueryScaling>,
    /// The soft-cap of the logits.
    pub logits_softcap: Option<f64>,
    /// The checkpoint name that a head of its own would have; `None` if the family names none.
    #[module(skip)]
    pub head_name: Option<String>,
    /// The type that the model computes in.
    #[module(skip)]
    dtype: DType,
    #[module(skip)]
    rotary: Vec<Rope>,
}

/// A matrix with its checkpoint name.
#[derive(Module, Debug)]
pub struct Matrix<B: Backend> {
    /// The matrix.
    pub weight: MatrixWeight<B>,
    /// Its checkpoint name, with `.weight`.
    #[module(skip)]
    pub name: String,
}

impl<B: FusedBackend> Decoder<B> {
    /// Builds the decoder from the weights of the loader.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn load(config: &ModelConfig, loader: &mut Loader<B>) -> Result<Self> {
        let matrix = |loader: &mut Loader<B>, role: Role| {
            let (name, weight) = PartLoader::new(config, loader, None).matrix(role)?;
            Ok(Matrix { weight, name })
        };
        Ok(Self {
            embedding: matrix(loader, Role::Embedding)?,
            blocks: (0..config.num_hidden_layers).map(|index| Block::load(config, loader, index)).collect::<Result<_>>()?,
            norm: PartLoader::new(config, loader, None).norm(Role::FinalNorm)?,
            head: (!config.tie_word_embeddings).then(|| matrix(loader, Role::Head)).transpose()?,
            embedding_scale: config.embedding_scale,
            logits_scaling: config.logits_scaling,
            query_scaling: config.query_scaling,
            logits_softcap: config.logits_softcap,
            head_name: config.family.part(Role::Head).map(|part| format!("{}.weight", part.checkpoint_name(None))),
            dtype: loader.dtype().into(),
            rotary: config.rotary.iter().map(|rotary| Rope::new(config.rotated_elements(), rotary)).collect(),
        })
    }

    /// What all blocks of a forward pass over that input share.
    pub fn state(&self, input: &ModelInput<B>) -> BlockState<B> {
        let device = input.tokens.device();
        BlockState {
            dims: input.tokens.dims(),
            rotary: self.rotary.iter().map(|rotary| rotary.table(&input.positions, &device)).collect(),
            query_scale: self.query_scale(input),
            segments: input.segments.clone(),
            adapters: input.adapters,
        }
    }

    /// The factor on the query of each token; `None` if all are 1.
    fn query_scale(&self, input: &ModelInput<B>) -> Option<Tensor<B, 1>> {
        let scaling = self.query_scaling?;
        if input.positions.iter().all(|position| (*position as usize) < scaling.length) {
            return None;
        }
        let factors: Vec<f32> = input.positions.iter().map(|position| scaling.factor(*position) as f32).collect();
        let shape = [factors.len()];
        Some(Tensor::from_data(TensorData::new(factors, shape), (&input.tokens.device(), DType::F32)))
    }

    /// Whether a text with that number of tokens has the rotary frequencies of long texts.
    pub fn is_long(&self, tokens: usize) -> bool {
        self.rotary.iter().any(|rotary| rotary.is_long(tokens))
    }

    /// The residual stream before the first block.
    pub fn embed(&self, input: &ModelInput<B>) -> Stream<B> {
        let [batch, length] = input.tokens.dims();
        let x = self.embedding.weight.operand().rows(input.tokens.clone().reshape([batch * length]), self.dtype);
        // A trained embedding is in f32.
        let x = if x.dtype() == self.dtype { x } else { x.cast(self.dtype) };
        match self.embedding_scale {
            Some(scale) => {
                let scale = rounded(scale, x.dtype());
                x.mul_scalar(scale).into()
            }
            None => x.into(),
        }
    }

    /// The hidden states after the last norm, divided by what divides the logits.
    pub fn finish(&self, stream: Stream<B>) -> Tensor<B, 2> {
        let (_, hidden) = stream.normed(Some(&self.norm));
        match self.logits_scaling {
            // Instead of the logits, which are more and never all in memory.
            Some(divisor) => hidden.mul_scalar(divisor.recip()),
            None => hidden,
        }
    }

    /// The output head, `[vocab_size, hidden_size]`, in the type that the model computes in.
    pub fn head(&self) -> Operand<B> {
        match self.head.as_ref().unwrap_or(&self.embedding).weight.operand() {
            Operand::Dense(weight) if weight.dtype() != self.dtype => Operand::Dense(weight.cast(self.dtype)),
            operand => operand,
        }
    }

    /// Freezes the embedding and the head in the type that the model computes in.
    pub fn freeze_matrices(&mut self) {
        for matrix in [Some(&mut self.embedding), self.head.as_mut()].into_iter().flatten() {
            if let MatrixWeight::Trainable(param) = &matrix.weight {
                matrix.weight = MatrixWeight::Frozen(Operand::Dense(param.val().detach().cast(self.dtype)));
            }
        }
    }
}

/// A factor rounded to a type.
fn rounded(factor: f64, dtype: DType) -> f64 {
    let single = factor as f32;
    match dtype {
        DType::F16 => f16::from_f32(single).to_f64(),
        DType::BF16 => bf16::from_f32(single).to_f64(),
        _ => f64::from(single),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers multiplies embeddings of width 1152 by 33.9411 in f32, 34 in bf16 and 33.9375 in f16.
    #[test]
    fn the_factor_on_the_embedding_is_rounded_to_the_type() {
        let root = 1152f64.sqrt();
        let of = |dtype| rounded(root, dtype);
        let single = f64::from(33.941_124_f32);
        assert_eq!((of(DType::BF16), of(DType::F16), of(DType::F32)), (34.0, 33.9375, single));
    }
}
