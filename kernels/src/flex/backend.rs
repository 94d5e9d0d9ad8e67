//! `FusedBackend` for Flex: each operation by its CPU kernel, or composed. A test can break each.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_flex::{Flex, FlexTensor};

use crate::adamw::{AdamWStep, AdamWTensors};
use crate::adamw8bit::{AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{AttentionOptions, Statistics};
use crate::broken::{Breakable, unless_broken};
use crate::dropout::Dropout;
use crate::glu::Activation;
use crate::grouped_linear::{self, RawGroup};
use crate::lora_linear::{LoraGradients, LoraSaved};
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};
use crate::sample_tokens::{self, TokenDraw};
use crate::sink_attention::{self, SinkInputs};
use crate::stacked_linear::{self, GroupRows};
use crate::{
    FusedBackend, adamw, adamw8bit, append, attention, dropout, glu, layer_norm, linear, linear_cross_entropy, lora_linear,
    pack, rms_norm, rotary, select_rows, squared_norm,
};

/// Methods that call a function.
macro_rules! operations {
    ($($function:path: fn $name:ident($($input:ident: $kind:ty),* $(,)?) -> $out:ty;)*) => {$(
        fn $name($($input: $kind),*) -> $out {
            unless_broken(stringify!($name), $function($($input),*))
        }
    )*};
}

impl Breakable for FlexTensor {
    fn broken(self) -> Self {
        if matches!(self.dtype(), DType::I32 | DType::I64) {
            return Tensor::<Flex, 1, Int>::from_primitive(self).add_scalar(1).into_primitive();
        }
        raw(typed::<Flex, 1>(self).mul_scalar(1.25))
    }
}

impl FusedBackend for Flex {
    const PACKED_KERNELS: bool = true;

    operations! {
        rms_norm::flex::forward:
        fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

        rms_norm::reference_add::<Self>:
        fn add_rms_norm(
            x: FloatTensor<Self>,
            residual: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            epsilon: f64,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        rms_norm::reference_fork::<Self>:
        fn fork_rms_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            epsilon: f64,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        rms_norm::flex::backward:
        fn rms_norm_backward(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            residual: Option<FloatTensor<Self>>,
            epsilon: f64,
            weight_gradient: bool,
        ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);

        layer_norm::reference::<Self>:
        fn row_layer_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;

        layer_norm::reference_backward::<Self>:
        fn row_layer_norm_backward(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            epsilon: f64,
            weight_gradients: bool,
        ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 2]>);

        rotary::flex::rotate:
        fn rotary(heads: [FloatTensor<Self>; 2], cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool)
            -> [FloatTensor<Self>; 2];

        glu::flex::forward:
        fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

        glu::flex::backward:
        fn glu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        append::reference::<Self>:
        fn append(buffers: [FloatTensor<Self>; 2], new: [FloatTensor<Self>; 2], start: usize) -> [FloatTensor<Self>; 2];

        append::reference_rotated::<Self>:
        fn append_rotated(
            query: FloatTensor<Self>,
            new: [FloatTensor<Self>; 2],
            table: [FloatTensor<Self>; 2],
            buffers: [FloatTensor<Self>; 2],
            start: usize,
        ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]);

        append::reference_prefix::<Self>:
        fn prefix(buffer: FloatTensor<Self>, length: usize) -> FloatTensor<Self>;

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

        attention::reference_for_backward::<Self>:
        fn attention_for_backward(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            options: AttentionOptions,
        ) -> (FloatTensor<Self>, Option<Statistics<Self>>);

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

        sink_attention::reference_for_backward::<Self>:
        fn sink_attention_for_backward(
            inputs: SinkInputs<Self>,
            options: AttentionOptions,
        ) -> (FloatTensor<Self>, Option<Statistics<Self>>);

        sink_attention::flex::backward:
        fn sink_attention_backward(
            inputs: SinkInputs<Self>,
            statistics: Option<Statistics<Self>>,
            grad: FloatTensor<Self>,
            options: AttentionOptions,
        ) -> [FloatTensor<Self>; 3];

        linear::flex::forward:
        fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

        linear::flex::each:
        fn dense_linears(x: FloatTensor<Self>, weights: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>>;

        linear::reference_glu::<Self>:
        fn glu_linear(x: FloatTensor<Self>, weights: [FloatTensor<Self>; 2], activation: Activation) -> FloatTensor<Self>;

        linear::reference_backward_input::<Self>:
        fn linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

        linear::reference_backward_weight::<Self>:
        fn linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

        linear::packed::flex::forward:
        fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        linear::packed::references::<Self>:
        fn packed_linears(x: FloatTensor<Self>, weights: Vec<PackedTensor<Self>>) -> Vec<FloatTensor<Self>>;

        linear::packed::reference_glu::<Self>:
        fn packed_glu_linear(x: FloatTensor<Self>, weights: [PackedTensor<Self>; 2], activation: Activation)
            -> FloatTensor<Self>;

        linear::packed::flex::backward_input:
        fn packed_linear_backward_input(grad: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        linear::packed::flex::rows:
        fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self>;

        grouped_linear::flex::forward:
        fn grouped_linear(x: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self>;

        grouped_linear::flex::backward_input:
        fn grouped_linear_backward_input(grad: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self>;

        stacked_linear::flex::forward:
        fn stacked_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, rows: GroupRows) -> FloatTensor<Self>;

        stacked_linear::flex::backward_input:
        fn stacked_linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>, rows: GroupRows)
            -> FloatTensor<Self>;

        stacked_linear::flex::backward_weight:
        fn stacked_linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>, rows: GroupRows) -> FloatTensor<Self>;

        lora_linear::flex::forward:
        fn lora_linear(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        lora_linear::flex::hidden:
        fn lora_hidden(x: FloatTensor<Self>, lora_a: FloatTensor<Self>, scale: f64, dropout: Option<Dropout>) -> FloatTensor<Self>;

        lora_linear::flex::backward:
        fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self>;

        lora_linear::flex::packed_forward:
        fn packed_lora_linear(
            x: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        lora_linear::packed::reference_backward::<Self>:
        fn packed_lora_linear_backward(
            saved: LoraSaved<Self, PackedTensor<Self>>,
            grad: FloatTensor<Self>,
            input_gradient: bool,
        ) -> LoraGradients<Self>;

        linear_cross_entropy::flex::losses:
        fn linear_cross_entropy(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        linear_cross_entropy::flex::with_gradient:
        fn linear_cross_entropy_with_gradient(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        linear_cross_entropy::flex::backward_weight:
        fn linear_cross_entropy_backward_weight(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            labels: IntTensor<Self>,
            factors: FloatTensor<Self>,
        ) -> FloatTensor<Self>;

        linear_cross_entropy::flex::packed_losses:
        fn packed_linear_cross_entropy(hidden: FloatTensor<Self>, weight: PackedTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        linear_cross_entropy::flex::packed_with_gradient:
        fn packed_linear_cross_entropy_with_gradient(
            hidden: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            labels: IntTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        linear_cross_entropy::capped::reference::<Self>:
        fn capped_linear_cross_entropy(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            labels: IntTensor<Self>,
            cap: f64,
        ) -> FloatTensor<Self>;

        linear_cross_entropy::capped::packed_reference::<Self>:
        fn packed_capped_linear_cross_entropy(
            hidden: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            labels: IntTensor<Self>,
            cap: f64,
        ) -> FloatTensor<Self>;

        select_rows::reference::<Self>:
        fn select_rows(x: FloatTensor<Self>, positions: IntTensor<Self>) -> FloatTensor<Self>;

        select_rows::reference_backward::<Self>:
        fn select_rows_backward(grad: FloatTensor<Self>, positions: IntTensor<Self>, rows: usize) -> FloatTensor<Self>;

        adamw::reference::<Self>:
        fn adamw(tensors: AdamWTensors<Self>, step: AdamWStep) -> [FloatTensor<Self>; 3];

        adamw8bit::flex::update:
        fn adamw8bit(tensors: AdamW8bitTensors<Self>, step: AdamWStep) -> AdamW8bitUpdate<Self>;

        pack::flex::unpack:
        fn unpack(packed: &FloatTensor<Self>, shapes: Vec<Shape>) -> Vec<FloatTensor<Self>>;

        pack::reference::<Self>:
        fn pack(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self>;

        squared_norm::reference::<Self>:
        fn squared_norm(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> FloatTensor<Self>;

        sample_tokens::reference::<Self>:
        fn sample_tokens(logits: FloatTensor<Self>, draw: TokenDraw) -> IntTensor<Self>;
    }
}
