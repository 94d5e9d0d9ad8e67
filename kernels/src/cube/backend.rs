//! `FusedBackend` for burn's CubeCL backends: the runtime decides how each operation runs.

use std::collections::BTreeMap;

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, FloatElement, IntElement};
use cubecl::client::ComputeClient;
use cubecl::stream_id::StreamId;

use super::runtime::KernelRuntime;
use crate::adamw::{AdamWStep, AdamWTensors};
use crate::adamw8bit::{AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{AttentionOptions, Statistics};
use crate::backend::FusedBackend;
use crate::broken::{Breakable, unless_broken};
use crate::device_memory::{DeviceMemory, MemoryProbe};
use crate::dropout::Dropout;
use crate::glu::Activation;
use crate::lora_linear::{LoraGradients, LoraSaved};
use crate::matrix;
use crate::packed::PackedTensor;
use crate::primitive::{raw, typed};
use crate::products::ProductTrial;
use crate::sample_tokens::TokenDraw;
use crate::sink_attention::{self, SinkInputs};

/// Methods that call those of the runtime of the same name.
macro_rules! of_runtime {
    ($(fn $name:ident($($input:ident: $kind:ty),* $(,)?) -> $out:ty;)*) => {$(
        fn $name($($input: $kind),*) -> $out {
            unless_broken(stringify!($name), R::$name::<Self>($($input),*))
        }
    )*};
}

impl<R: KernelRuntime> Breakable for CubeTensor<R> {
    fn broken(self) -> Self {
        if matches!(self.dtype, DType::I32 | DType::I64) {
            let ids = Tensor::<CubeBackend<R, f32, i32, u8>, 1, Int>::from_primitive(self);
            return ids.add_scalar(1).into_primitive();
        }
        raw(typed::<CubeBackend<R, f32, i32, u8>, 1>(self).mul_scalar(1.25))
    }
}

impl<R, F, I, BT> FusedBackend for CubeBackend<R, F, I, BT>
where
    R: KernelRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    const OWN_GRADIENTS: bool = R::OWN_GRADIENTS;
    const PACKED_KERNELS: bool = R::FUSED;
    const QUEUES: bool = R::FUSED;

    fn sink_attention(inputs: SinkInputs<Self>, options: AttentionOptions) -> FloatTensor<Self> {
        let attended = if R::FUSED {
            sink_attention::cube::forward::<R, Self>(inputs, options)
        } else {
            sink_attention::reference::<Self>(inputs, options)
        };
        unless_broken("sink_attention", attended)
    }

    fn sink_attention_for_backward(
        inputs: SinkInputs<Self>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, Option<Statistics<Self>>) {
        let attended = if R::FUSED {
            sink_attention::cube::for_backward::<R, Self>(inputs, options)
        } else {
            sink_attention::reference_for_backward::<Self>(inputs, options)
        };
        unless_broken("sink_attention_for_backward", attended)
    }

    fn sink_attention_backward(
        inputs: SinkInputs<Self>,
        statistics: Option<Statistics<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        let gradients = sink_attention::cube::backward::<R, Self>(inputs, statistics, grad, options);
        unless_broken("sink_attention_backward", gradients)
    }

    of_runtime! {
        fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

        fn add_rms_norm(x: FloatTensor<Self>, residual: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        fn rms_norm_backward(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            residual: Option<FloatTensor<Self>>,
            epsilon: f64,
            weight_gradient: bool,
        ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);

        fn row_layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64)
            -> FloatTensor<Self>;

        fn row_layer_norm_backward(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            grad: FloatTensor<Self>,
            epsilon: f64,
            weight_gradients: bool,
        ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 2]>);

        fn rotary(heads: [FloatTensor<Self>; 2], cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool)
            -> [FloatTensor<Self>; 2];

        fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

        fn glu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;

        fn segment_attention(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            options: AttentionOptions,
        ) -> FloatTensor<Self>;

        fn attention_for_backward(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            options: AttentionOptions,
        ) -> (FloatTensor<Self>, Option<Statistics<Self>>);

        fn attention_backward(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            segments: Option<IntTensor<Self>>,
            statistics: Option<Statistics<Self>>,
            grad: FloatTensor<Self>,
            options: AttentionOptions,
        ) -> [FloatTensor<Self>; 3];

        fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

        fn dense_linears(x: FloatTensor<Self>, weights: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>>;

        fn glu_linear(x: FloatTensor<Self>, weights: [FloatTensor<Self>; 2], activation: Activation) -> FloatTensor<Self>;

        fn append(buffers: [FloatTensor<Self>; 2], new: [FloatTensor<Self>; 2], start: usize) -> [FloatTensor<Self>; 2];

        fn append_rotated(
            query: FloatTensor<Self>,
            new: [FloatTensor<Self>; 2],
            table: [FloatTensor<Self>; 2],
            buffers: [FloatTensor<Self>; 2],
            start: usize,
        ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]);

        fn prefix(buffer: FloatTensor<Self>, length: usize) -> FloatTensor<Self>;

        fn linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

        fn linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

        fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        fn packed_linears(x: FloatTensor<Self>, weights: Vec<PackedTensor<Self>>) -> Vec<FloatTensor<Self>>;

        fn packed_glu_linear(x: FloatTensor<Self>, weights: [PackedTensor<Self>; 2], activation: Activation)
            -> FloatTensor<Self>;

        fn packed_linear_backward_input(grad: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self>;

        fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self>;

        fn lora_linear(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        fn lora_hidden(x: FloatTensor<Self>, lora_a: FloatTensor<Self>, scale: f64, dropout: Option<Dropout>) -> FloatTensor<Self>;

        fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self>;

        fn packed_lora_linear(
            x: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            lora_a: FloatTensor<Self>,
            lora_b: FloatTensor<Self>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        fn packed_lora_linear_backward(
            saved: LoraSaved<Self, PackedTensor<Self>>,
            grad: FloatTensor<Self>,
            input_gradient: bool,
        ) -> LoraGradients<Self>;

        fn linear_cross_entropy(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        fn linear_cross_entropy_with_gradient(hidden: FloatTensor<Self>, weight: FloatTensor<Self>, labels: IntTensor<Self>)
            -> (FloatTensor<Self>, FloatTensor<Self>);

        fn packed_linear_cross_entropy(hidden: FloatTensor<Self>, weight: PackedTensor<Self>, labels: IntTensor<Self>)
            -> FloatTensor<Self>;

        fn packed_linear_cross_entropy_with_gradient(
            hidden: FloatTensor<Self>,
            weight: PackedTensor<Self>,
            labels: IntTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);

        fn linear_cross_entropy_backward_weight(
            hidden: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            labels: IntTensor<Self>,
            factors: FloatTensor<Self>,
        ) -> FloatTensor<Self>;

        fn select_rows(x: FloatTensor<Self>, positions: IntTensor<Self>) -> FloatTensor<Self>;

        fn select_rows_backward(grad: FloatTensor<Self>, positions: IntTensor<Self>, rows: usize) -> FloatTensor<Self>;

        fn adamw(tensors: AdamWTensors<Self>, step: AdamWStep) -> [FloatTensor<Self>; 3];

        fn adamw8bit(tensors: AdamW8bitTensors<Self>, step: AdamWStep) -> AdamW8bitUpdate<Self>;

        fn pack(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self>;

        fn squared_norm(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> FloatTensor<Self>;

        fn sample_tokens(logits: FloatTensor<Self>, draw: TokenDraw) -> IntTensor<Self>;
    }

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        memory_of(&R::client(device))
    }

    fn memory_probe(device: &Self::Device) -> Option<MemoryProbe> {
        let mut client = R::client(device);
        // SAFETY: the client only asks for the stream's memory usage, which the server answers between other requests.
        unsafe { client.set_stream(StreamId::current()) };
        Some(Box::new(move || memory_of(&client)))
    }

    fn product_library(device: &Self::Device) -> Option<String> {
        R::product_library(device).map(|library| library.name().to_owned())
    }

    fn note_products(device: &Self::Device) {
        matrix::note::<R>(device);
    }

    fn product_trials(device: &Self::Device) -> Vec<Box<dyn ProductTrial>> {
        matrix::trials::<R>(device)
    }

    fn choose_products(device: &Self::Device, chosen: &BTreeMap<String, String>) {
        matrix::choose::<R>(device, chosen);
    }

    fn largest_allocation(device: &Self::Device) -> Option<u64> {
        Some(R::client(device).properties().memory.max_page_size)
    }
}

fn memory_of<R: KernelRuntime>(client: &ComputeClient<R>) -> Option<DeviceMemory> {
    let usage = client.memory_usage().ok()?;
    let total = R::total_memory(client);
    Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved, total })
}
