//! The layer in a pass whose result nobody reads.

use burn::tensor::Tensor;

use crate::TrainBackend;
use crate::dropout::{self, Dropout};
use crate::grouped_linear::GroupWeight;
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};

/// The operands of a layer, see [`lora_linear()`](crate::lora_linear()).
#[derive(Debug, Clone)]
pub struct Unread<F, P> {
    /// `[rows, in]`.
    pub x: F,
    /// `[out, in]`, frozen.
    pub weight: GroupWeight<F, P>,
    /// `[rank, in]`, f32.
    pub lora_a: F,
    /// `[out, rank]`, f32.
    pub lora_b: F,
    /// Factor on the update.
    pub scale: f64,
    /// Dropout of the adapter's input.
    pub dropout: Option<Dropout>,
}

/// [`lora_linear()`](crate::lora_linear()) for its gradients only: the values of the result, `[rows, out]`, may be zero instead.
///
/// The backward of a layer does not need its result, so a checkpointed block that is computed again can do without its last product.
///
/// # Panics
/// When shapes do not fit, or the probability of the dropout is not within `[0, 1)`.
pub fn unread_lora_linear<B: TrainBackend>(layer: Unread<Tensor<B, 2>, PackedTensor<B>>) -> Tensor<B, 2> {
    let Unread { x, weight, lora_a, lora_b, scale, dropout } = layer;
    let [outputs, inputs] = match &weight {
        GroupWeight::Dense(weight) => weight.dims(),
        GroupWeight::Packed(weight) => weight.dims(),
    };
    let rank = lora_a.dims()[0];
    assert!(
        x.dims()[1] == inputs && lora_a.dims() == [rank, inputs] && lora_b.dims() == [outputs, rank],
        "unread_lora_linear: x {:?}, weight {:?}, A {:?}, B {:?} do not fit",
        x.dims(),
        [outputs, inputs],
        lora_a.dims(),
        lora_b.dims()
    );
    let weight = match weight {
        GroupWeight::Dense(weight) => GroupWeight::Dense(raw(weight)),
        GroupWeight::Packed(weight) => GroupWeight::Packed(weight),
    };
    let dropout = dropout.filter(|dropout| dropout::drops(dropout.probability));
    typed(B::unread_lora_linear(Unread { x: raw(x), weight, lora_a: raw(lora_a), lora_b: raw(lora_b), scale, dropout }))
}
