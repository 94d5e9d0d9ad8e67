//! Rotary position embedding.

pub(crate) mod autodiff;
pub(crate) mod flex;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// Cosine and sine of every token's angles, made once a forward pass and shared by all layers.
#[derive(Debug, Clone)]
pub struct RotaryTable<B: Backend> {
    /// `[tokens, head_dim / 2]`, f32.
    pub cos: Tensor<B, 2>,
    /// `[tokens, head_dim / 2]`, f32.
    pub sin: Tensor<B, 2>,
}

/// Turns the pairs `(x[i], x[i + d/2])` of each head by the token's angles.
///
/// `y₁ = x₁ cos - x₂ sin`, `y₂ = x₂ cos + x₁ sin`, with `x₁`, `x₂` the two halves of a head.
///
/// # Shapes
/// `x` `[tokens, heads, head_dim]`; the table's rows are the tokens.
///
/// # Panics
/// When the table does not fit `x`.
///
/// # Source
/// Su et al. 2021, "RoFormer"; `apply_rotary_pos_emb` of transformers 5.
pub fn rotary<B: FusedBackend>(x: Tensor<B, 3>, table: &RotaryTable<B>) -> Tensor<B, 3> {
    let [tokens, _, head_dim] = x.dims();
    assert_eq!(
        table.cos.dims(),
        [tokens, head_dim / 2],
        "rotary: the table does not fit [tokens, heads, head_dim] {:?}",
        x.dims()
    );
    typed(B::rotary(raw(x), raw(table.cos.clone()), raw(table.sin.clone()), false))
}

/// The composed operation, either way round.
pub fn reference<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>, inverse: bool) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = typed::<B, 3>(x).cast(DType::F32);
    let half = x.dims()[2] / 2;
    let cos = typed::<B, 2>(cos).unsqueeze_dim::<3>(1);
    let sin = typed::<B, 2>(sin).unsqueeze_dim::<3>(1);
    let sin = if inverse { sin.neg() } else { sin };
    let first = x.clone().narrow(2, 0, half);
    let second = x.narrow(2, half, half);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    raw(Tensor::cat(vec![turned_first, turned_second], 2).cast(dtype))
}
