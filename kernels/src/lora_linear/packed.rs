//! An adapter on a packed weight.

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;

use super::{LoraGradients, LoraSaved, reference_backward_on, reference_hidden, reference_on};
use crate::FusedBackend;
use crate::dropout::{self, Dropout};
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};

/// As [`lora_linear`](crate::lora_linear()), on a packed weight.
///
/// # Panics
/// When shapes do not fit, or the probability of the dropout is not within `[0, 1)`.
pub fn packed_lora_linear<B: FusedBackend>(
    x: Tensor<B, 2>,
    weight: &PackedTensor<B>,
    lora_a: Tensor<B, 2>,
    lora_b: Tensor<B, 2>,
    scale: f64,
    dropout: Option<Dropout>,
) -> Tensor<B, 2> {
    let ([_, inputs], [outputs, weight_inputs]) = (x.dims(), weight.dims());
    let rank = lora_a.dims()[0];
    assert!(
        inputs == weight_inputs && lora_a.dims() == [rank, inputs] && lora_b.dims() == [outputs, rank],
        "packed_lora_linear: x {:?}, weight {:?}, A {:?}, B {:?} do not fit",
        x.dims(),
        weight.dims(),
        lora_a.dims(),
        lora_b.dims()
    );
    let dropout = dropout.filter(|dropout| dropout::drops(dropout.probability));
    typed(B::packed_lora_linear(raw(x), weight.clone(), raw(lora_a), raw(lora_b), scale, dropout).0)
}

/// The composed forward, with `scale · dropout(x) Aᵀ` beside the result.
pub fn reference<B: FusedBackend>(
    x: FloatTensor<B>,
    weight: PackedTensor<B>,
    lora_a: FloatTensor<B>,
    lora_b: FloatTensor<B>,
    scale: f64,
    dropout: Option<Dropout>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let hidden = reference_hidden::<B>(x.clone(), lora_a, scale, dropout);
    reference_on::<B>(x, hidden, lora_b, |x| B::packed_linear(x, weight))
}

/// The composed backward.
pub fn reference_backward<B: FusedBackend>(
    saved: LoraSaved<B, PackedTensor<B>>,
    grad: FloatTensor<B>,
    input_gradient: bool,
) -> LoraGradients<B> {
    reference_backward_on::<B, _>(saved, grad, input_gradient, B::packed_linear_backward_input)
}
