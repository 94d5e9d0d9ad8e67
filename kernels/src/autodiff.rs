//! `FusedBackend` for any backend under burn's autodiff: each operation's own backward rule, or burn's.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{DType, Shape};

use crate::attention::AttentionOptions;
use crate::dropout::Dropout;
use crate::glu::{self, Activation};
use crate::grouped_linear::{self, RawGroup};
use crate::packed::PackedTensor;
use crate::sink_attention::{self, SinkInputs};
use crate::stacked_linear::GroupRows;
use crate::{
    DeviceMemory, FusedBackend, attention, dropout, layer_norm, linear, linear_cross_entropy, lora_linear, rms_norm, rotary,
    select_rows, stacked_linear, unsaved,
};

/// A method that follows the operation's own rule, or records the operations of its reference, as the backend asks.
macro_rules! ruled {
    ($rule:path | $reference:path: fn $name:ident($($input:ident: $kind:ty),*) -> $out:ty) => {
        fn $name($($input: $kind),*) -> $out {
            if B::OWN_GRADIENTS { $rule($($input),*) } else { $reference($($input),*) }
        }
    };
}

impl<B: FusedBackend, C: CheckpointStrategy> FusedBackend for Autodiff<B, C> {
    ruled!(rms_norm::autodiff::forward::<B, C> | rms_norm::reference::<Self>:
        fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>);

    ruled!(rms_norm::autodiff::add_forward::<B, C> | rms_norm::reference_add::<Self>:
        fn add_rms_norm(x: FloatTensor<Self>, residual: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64)
            -> (FloatTensor<Self>, FloatTensor<Self>));

    ruled!(rms_norm::autodiff::fork_forward::<B, C> | rms_norm::reference_fork::<Self>:
        fn fork_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64)
            -> (FloatTensor<Self>, FloatTensor<Self>));

    ruled!(layer_norm::autodiff::forward::<B, C> | layer_norm::reference::<Self>:
        fn row_layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64)
            -> FloatTensor<Self>);

    ruled!(rotary::autodiff::forward::<B, C> | rotary::reference_both::<Self>:
        fn rotary(heads: [FloatTensor<Self>; 2], cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool)
            -> [FloatTensor<Self>; 2]);

    ruled!(glu::autodiff::forward::<B, C> | glu::reference::<Self>:
        fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>);

    ruled!(dropout::autodiff::forward::<B, C> | dropout::reference::<Self>:
        fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>);

    ruled!(attention::autodiff::forward::<B, C> | attention::reference::<Self>:
        fn segment_attention(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            options: AttentionOptions
        ) -> FloatTensor<Self>);

    ruled!(sink_attention::autodiff::forward::<B, C> | sink_attention::reference::<Self>:
        fn sink_attention(inputs: SinkInputs<Self>, options: AttentionOptions) -> FloatTensor<Self>);

    ruled!(linear::autodiff::forward::<B, C> | linear::reference::<Self>:
        fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>);

    ruled!(grouped_linear::autodiff::forward::<B, C> | grouped_linear::reference::<Self>:
        fn grouped_linear(x: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self>);

    ruled!(stacked_linear::autodiff::forward::<B, C> | stacked_linear::reference::<Self>:
        fn stacked_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, rows: GroupRows) -> FloatTensor<Self>);

    ruled!(lora_linear::autodiff::forward::<B, C> | lora_linear::reference::<Self>:
        fn lora_linear(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>
        ) -> (FloatTensor<Self>, FloatTensor<Self>));

    ruled!(linear_cross_entropy::autodiff::forward::<B, C> | linear_cross_entropy::reference::<Self>:
        fn linear_cross_entropy(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>);

    ruled!(linear_cross_entropy::autodiff::capped_forward::<B, C> | linear_cross_entropy::capped::reference::<Self>:
        fn capped_linear_cross_entropy(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            labels: IntTensor<Self>,
            cap: f64
        ) -> FloatTensor<Self>);

    ruled!(select_rows::autodiff::forward::<B, C> | select_rows::reference::<Self>:
        fn select_rows(x: FloatTensor<Self>, positions: IntTensor<Self>) -> FloatTensor<Self>);

    ruled!(unsaved::autodiff::view::<B, C> | Self::float_reshape: fn view(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self>);

    ruled!(unsaved::autodiff::scale::<B, C> | unsaved::reference_scale::<Self>:
        fn scale(x: FloatTensor<Self>, factor: f64) -> FloatTensor<Self>);

    ruled!(unsaved::autodiff::add_bias::<B, C> | unsaved::reference_add_bias::<Self>:
        fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>);

    // Of a packed weight there is nothing to record: it never trains.
    fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self> {
        linear::packed::forward::<B, C>(x, weight)
    }

    fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::packed_rows(linear::packed::inner(weight), rows, dtype))
    }

    fn packed_lora_linear(
        x: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        lora_linear::autodiff::packed_forward::<B, C>(x, weight, lora_a, lora_b, scale, dropout)
    }

    fn packed_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::packed::forward::<B, C>(hidden, weight, labels, None)
    }

    fn packed_capped_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        labels: IntTensor<Self>,
        cap: f64,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::packed::forward::<B, C>(hidden, weight, labels, Some(cap))
    }

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        B::device_memory(device)
    }

    fn largest_allocation(device: &Self::Device) -> Option<u64> {
        B::largest_allocation(device)
    }
}
