//! `FusedBackend` for Flex: each operation that has a CPU kernel.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_flex::Flex;

use crate::adamw::AdamWStep;
use crate::adamw8bit::{AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{AttentionOptions, Statistics};
use crate::dropout::Dropout;
use crate::glu::Activation;
use crate::grouped_linear::{self, RawGroup};
use crate::lora_linear::{LoraGradients, LoraSaved};
use crate::packed::PackedTensor;
use crate::sink_attention::{self, SinkInputs};
use crate::{
    FusedBackend, adamw8bit, attention, dropout, glu, linear, linear_cross_entropy, lora_linear, pack, rms_norm, rotary,
};

/// Methods that call a function.
macro_rules! operations {
    ($($function:path: fn $name:ident($($input:ident: $kind:ty),* $(,)?) -> $out:ty;)*) => {$(
        fn $name($($input: $kind),*) -> $out {
            $function($($input),*)
        }
    )*};
}

impl FusedBackend for Flex {
    const PACKED_KERNELS: bool = true;

    operations! {
        rms_norm::flex::forward:
        fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

        rms_norm::flex::backward:
        fn rms_norm_backward(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            residual: Option<FloatTensor<Self>>,
            epsilon: f64,
            weight_gradient: bool,
        ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);

        rotary::flex::rotate:
        fn rotary(heads: [FloatTensor<Self>; 2], cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool)
            -> [FloatTensor<Self>; 2];

        glu::flex::forward:
        fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

        glu::flex::backward:
        fn glu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        dropout::flex::forward:
        fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;

        attention::flex::forward:
        fn segment_attention(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            options: AttentionOptions,
        ) -> FloatTensor<Self>;

        attention::flex::backward:
        fn attention_backward(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            statistics: Option<Statistics<Self>>,
            grad: FloatTensor<Self>,
            options: AttentionOptions,
        ) -> [FloatTensor<Self>; 3];

        sink_attention::flex::forward:
        fn sink_attention(inputs: SinkInputs<Self>, options: AttentionOptions) -> FloatTensor<Self>;

        sink_attention::flex::backward:
        fn sink_attention_backward(
            inputs: SinkInputs<Self>,
            statistics: Option<Statistics<Self>>,
            grad: FloatTensor<Self>,
            options: AttentionOptions,
        ) -> [FloatTensor<Self>; 3];

        linear::flex::forward:
        fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

        linear::packed::flex::forward:
        fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        linear::packed::flex::backward_input:
        fn packed_linear_backward_input(grad: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        linear::packed::flex::rows:
        fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self>;

        grouped_linear::flex::forward:
        fn grouped_linear(x: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self>;

        grouped_linear::flex::backward_input:
        fn grouped_linear_backward_input(grad: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self>;

        lora_linear::flex::forward:
        fn lora_linear(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        lora_linear::flex::backward:
        fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self>;

        linear_cross_entropy::flex::losses:
        fn linear_cross_entropy(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        linear_cross_entropy::flex::with_gradient:
        fn linear_cross_entropy_with_gradient(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        linear_cross_entropy::flex::packed_losses:
        fn packed_linear_cross_entropy(hidden: FloatTensor<Self>, weight: PackedTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        linear_cross_entropy::flex::packed_with_gradient:
        fn packed_linear_cross_entropy_with_gradient(
            hidden: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            labels: IntTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        linear_cross_entropy::flex::backward_weight:
        fn linear_cross_entropy_backward_weight(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            labels: IntTensor<Self>,
            factors: FloatTensor<Self>,
        ) -> FloatTensor<Self>;

        pack::flex::unpack:
        fn unpack(packed: &FloatTensor<Self>, shapes: Vec<Shape>) -> Vec<FloatTensor<Self>>;

        adamw8bit::flex::update:
        fn adamw8bit(tensors: AdamW8bitTensors<Self>, step: AdamWStep) -> AdamW8bitUpdate<Self>;
    }
}
