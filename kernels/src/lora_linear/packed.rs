//! An adapter on a packed weight.

use burn::tensor::{DType, Tensor};

use super::seen;
use crate::dropout::{self, Dropout};
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};
use crate::{FusedBackend, linear, packed_linear};

/// As [`lora_linear`](crate::lora_linear()), on a packed weight: composed of the packed product, which keeps nothing, and the narrow ones.
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
    let dtype: DType = x.dtype();
    let [lora_a, lora_b] = [lora_a, lora_b].map(|factor| factor.cast(dtype));
    let hidden = linear(typed::<B, 2>(seen::<B>(raw(x.clone()), dropout)), lora_a).mul_scalar(scale);
    packed_linear(x, weight) + linear(hidden, lora_b)
}
