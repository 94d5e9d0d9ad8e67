//! Rotary position embedding.

pub(crate) mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata};

use crate::FusedBackend;
use crate::primitive::{raw, typed};

/// Cosine and sine of every token's angles, computed once in a forward pass and shared by all layers.
#[derive(Debug, Clone)]
pub struct RotaryTable<B: Backend> {
    /// `[tokens, rotary_dim / 2]`, f32.
    pub cos: Tensor<B, 2>,
    /// `[tokens, rotary_dim / 2]`, f32.
    pub sin: Tensor<B, 2>,
}

/// Rotates the pairs `(x[i], x[i + d/2])` of the first `d = rotary_dim` elements of each head, of query and key, by the token's
/// angles.
///
/// `y₁ = x₁ cos - x₂ sin`, `y₂ = x₂ cos + x₁ sin`, with `x₁`, `x₂` the two halves of those elements; the rest of a
/// head is unchanged. The width of the table is `rotary_dim / 2`.
///
/// # Shapes
/// `query` `[tokens, heads, head_dim]`, `key` `[tokens, key_value_heads, head_dim]`; the table's rows are the tokens.
///
/// # Panics
/// When the table does not fit query and key.
///
/// # Source
/// Su et al. 2021, "RoFormer"; `apply_rotary_pos_emb` of transformers 5.
pub fn rotary<B: FusedBackend>(
    query: Tensor<B, 3>,
    key: Tensor<B, 3>,
    table: &RotaryTable<B>,
) -> (Tensor<B, 3>, Tensor<B, 3>) {
    let [rows, half] = table.cos.dims();
    assert!(table.sin.dims() == [rows, half], "rotary: the table's halves differ");
    let ([tokens, _, head_dim], [key_tokens, _, key_dim]) = (query.dims(), key.dims());
    assert!(
        tokens == rows && half * 2 <= head_dim && (key_tokens, key_dim) == (tokens, head_dim),
        "rotary: a table of {rows} x {half} does not fit [tokens, heads, head_dim] {:?} and {:?}",
        query.dims(),
        key.dims()
    );
    let [query, key] = B::rotary([raw(query), raw(key)], raw(table.cos.clone()), raw(table.sin.clone()), false);
    (typed(query), typed(key))
}

/// The composed operation on query or key, in either direction.
pub fn reference<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>, inverse: bool) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = typed::<B, 3>(x).cast(DType::F32);
    let [_, _, head_dim] = x.dims();
    let half = cos.shape()[1];
    let cos = typed::<B, 2>(cos).unsqueeze_dim::<3>(1);
    let sin = typed::<B, 2>(sin).unsqueeze_dim::<3>(1);
    let sin = if inverse { sin.neg() } else { sin };
    let first = x.clone().narrow(2, 0, half);
    let second = x.clone().narrow(2, half, half);
    let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let rotated_second = second * cos + first * sin;
    let mut parts = vec![rotated_first, rotated_second];
    if 2 * half < head_dim {
        parts.push(x.narrow(2, 2 * half, head_dim - 2 * half));
    }
    raw(Tensor::cat(parts, 2).cast(dtype))
}

/// The composed operation on query and key.
pub fn reference_both<B: Backend>(
    heads: [FloatTensor<B>; 2],
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    inverse: bool,
) -> [FloatTensor<B>; 2] {
    heads.map(|x| reference::<B>(x, cos.clone(), sin.clone(), inverse))
}
