//! The traits that models and the training loop ask of a backend.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};

use crate::adamw::{self, AdamWStep, AdamWTensors};
use crate::adamw8bit::{self, AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{self, AttentionOptions, Statistics};
use crate::device_memory::{DeviceMemory, MemoryProbe};
use crate::dropout::{self, Dropout};
use crate::glu::{self, Activation};
use crate::grouped_linear::{self, RawGroup};
use crate::lora_linear::{self, LoraGradients, LoraSaved};
use crate::packed::PackedTensor;
use crate::products::ProductTrial;
use crate::sample_tokens::{self, TokenDraw};
use crate::sink_attention::{self, SinkInputs};
use crate::stacked_linear::{self, GroupRows};
use crate::{append, layer_norm, linear, linear_cross_entropy, pack, rms_norm, rotary, select_rows, squared_norm, unsaved};

/// A burn backend with the fused operations of Burnish.
///
/// Every method defaults to the composed reference in plain burn operations, so that
/// `impl FusedBackend for MyBackend {}` is all that a backend needs. Models call the typed functions
/// ([`crate::rms_norm()`], [`crate::attention()`], …), whose docs state the shapes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fused operations of Burnish",
    note = "a backend of your own: `impl FusedBackend for MyBackend {{}}`",
    note = "burn's `Fusion` is not opted in: name `CubeBackend<…>` itself, or turn burn's feature `fusion` off"
)]
pub trait FusedBackend: Backend {
    /// Whether gradients follow the rules of this crate. If not, burn's autodiff records each operation of the composed
    /// references, as in training on burn alone.
    const OWN_GRADIENTS: bool = true;

    /// Whether products with packed weights have kernels of their own, so that no matrix is unpacked on the host.
    const PACKED_KERNELS: bool = false;

    /// Whether operations are queued on a device, so that the host can be ahead of it.
    const QUEUES: bool = false;

    /// See [`crate::rms_norm()`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        rms_norm::reference::<Self>(x, weight, epsilon)
    }

    /// See [`crate::add_rms_norm()`]; returns the sum, and its norm.
    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rms_norm::reference_add::<Self>(x, residual, weight, epsilon)
    }

    /// See [`crate::fork_rms_norm()`]; returns `x`, and its norm.
    fn fork_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rms_norm::reference_fork::<Self>(x, weight, epsilon)
    }

    /// Gradients of [`FusedBackend::rms_norm`] for `x` and, where asked for, `weight`. A `residual` is another gradient of `x`,
    /// which is added to the first.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        epsilon: f64,
        weight_gradient: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        rms_norm::reference_backward::<Self>(x, weight, grad, residual, epsilon, weight_gradient)
    }

    /// See [`crate::layer_norm()`].
    fn row_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        layer_norm::reference::<Self>(x, weight, bias, epsilon)
    }

    /// Gradients of [`FusedBackend::row_layer_norm`] for `x` and, where asked for, `weight` and `bias`.
    fn row_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        weight_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 2]>) {
        layer_norm::reference_backward::<Self>(x, weight, grad, epsilon, weight_gradients)
    }

    /// Query and key, rotated, see [`crate::rotary()`]; `inverse` rotates back, which is the backward.
    fn rotary(
        heads: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> [FloatTensor<Self>; 2] {
        rotary::reference_both::<Self>(heads, cos, sin, inverse)
    }

    /// See [`crate::swiglu()`] and [`crate::geglu()`].
    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        glu::reference::<Self>(gate, up, activation)
    }

    /// Gradients of [`FusedBackend::glu`] for `gate` and `up`.
    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        glu::reference_backward::<Self>(gate, up, grad, activation)
    }

    /// See [`crate::append()`].
    fn append(buffers: [FloatTensor<Self>; 2], new: [FloatTensor<Self>; 2], start: usize) -> [FloatTensor<Self>; 2] {
        append::reference::<Self>(buffers, new, start)
    }

    /// See [`crate::append_rotated()`]; `table` is its cosines and sines.
    fn append_rotated(
        query: FloatTensor<Self>,
        new: [FloatTensor<Self>; 2],
        table: [FloatTensor<Self>; 2],
        buffers: [FloatTensor<Self>; 2],
        start: usize,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        append::reference_rotated::<Self>(query, new, table, buffers, start)
    }

    /// See [`crate::append::prefix()`].
    fn prefix(buffer: FloatTensor<Self>, length: usize) -> FloatTensor<Self> {
        append::reference_prefix::<Self>(buffer, length)
    }

    /// See [`crate::dropout()`]; its gradient is the same operation on the gradient.
    fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        dropout::reference::<Self>(x, dropout)
    }

    /// See [`crate::attention()`].
    fn segment_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        attention::reference::<Self>(query, key, value, segments, options)
    }

    /// As [`FusedBackend::segment_attention`], with what the backward of this backend needs of it.
    fn attention_for_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, Option<Statistics<Self>>) {
        attention::reference_for_backward::<Self>(query, key, value, segments, options)
    }

    /// Gradients of [`FusedBackend::segment_attention`] for query, key and value.
    fn attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        segments: Option<IntTensor<Self>>,
        statistics: Option<Statistics<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        let _ = statistics;
        attention::reference_backward::<Self>(query, key, value, segments, grad, options)
    }

    /// See [`crate::sink_attention()`].
    fn sink_attention(inputs: SinkInputs<Self>, options: AttentionOptions) -> FloatTensor<Self> {
        sink_attention::reference::<Self>(inputs, options)
    }

    /// As [`FusedBackend::sink_attention`], with what the backward of this backend needs of it.
    fn sink_attention_for_backward(
        inputs: SinkInputs<Self>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, Option<Statistics<Self>>) {
        sink_attention::reference_for_backward::<Self>(inputs, options)
    }

    /// Gradients of [`FusedBackend::sink_attention`] for query, key and value.
    fn sink_attention_backward(
        inputs: SinkInputs<Self>,
        statistics: Option<Statistics<Self>>,
        grad: FloatTensor<Self>,
        options: AttentionOptions,
    ) -> [FloatTensor<Self>; 3] {
        let _ = statistics;
        sink_attention::reference_backward::<Self>(inputs, grad, options)
    }

    /// See [`crate::linear()`].
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::reference::<Self>(x, weight)
    }

    /// See [`crate::linears()`].
    fn dense_linears(x: FloatTensor<Self>, weights: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>> {
        weights.into_iter().map(|weight| Self::dense_linear(x.clone(), weight)).collect()
    }

    /// See [`crate::glu_linear()`].
    fn glu_linear(x: FloatTensor<Self>, weights: [FloatTensor<Self>; 2], activation: Activation) -> FloatTensor<Self> {
        linear::reference_glu::<Self>(x, weights, activation)
    }

    /// Gradient of [`FusedBackend::dense_linear`] for `x`: `dy · W`.
    fn linear_backward_input(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::reference_backward_input::<Self>(grad, weight)
    }

    /// Gradient of [`FusedBackend::dense_linear`] for `weight`: `dyᵀ · x`.
    fn linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::reference_backward_weight::<Self>(x, grad)
    }

    /// See [`crate::packed_linear()`].
    fn packed_linear(x: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self> {
        linear::packed::reference::<Self>(x, weight)
    }

    /// See [`crate::packed_linears()`].
    fn packed_linears(x: FloatTensor<Self>, weights: Vec<PackedTensor<Self>>) -> Vec<FloatTensor<Self>> {
        linear::packed::references::<Self>(x, weights)
    }

    /// See [`crate::packed_glu_linear()`].
    fn packed_glu_linear(x: FloatTensor<Self>, weights: [PackedTensor<Self>; 2], kind: Activation) -> FloatTensor<Self> {
        linear::packed::reference_glu::<Self>(x, weights, kind)
    }

    /// Gradient of [`FusedBackend::packed_linear`] for `x`: `dy · W`.
    fn packed_linear_backward_input(grad: FloatTensor<Self>, weight: PackedTensor<Self>) -> FloatTensor<Self> {
        linear::packed::reference_backward_input::<Self>(grad, weight)
    }

    /// See [`crate::packed_rows()`].
    fn packed_rows(weight: PackedTensor<Self>, rows: IntTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        linear::packed::reference_rows::<Self>(weight, rows, dtype)
    }

    /// See [`crate::grouped_linear()`].
    fn grouped_linear(x: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self> {
        grouped_linear::reference::<Self>(x, groups)
    }

    /// Gradient of [`FusedBackend::grouped_linear`] for `x`: `dy · W`, group by group.
    fn grouped_linear_backward_input(grad: FloatTensor<Self>, groups: Vec<RawGroup<Self>>) -> FloatTensor<Self> {
        grouped_linear::reference_backward_input::<Self>(grad, groups)
    }

    /// See [`crate::stacked_linear()`].
    fn stacked_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, rows: GroupRows) -> FloatTensor<Self> {
        stacked_linear::reference::<Self>(x, weight, rows)
    }

    /// Gradient of [`FusedBackend::stacked_linear`] for `x`: `dy · W`, group by group.
    fn stacked_linear_backward_input(
        grad: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: GroupRows,
    ) -> FloatTensor<Self> {
        stacked_linear::reference_backward_input::<Self>(grad, weight, rows)
    }

    /// Gradient of [`FusedBackend::stacked_linear`] for `weight`: `dyᵀ · x`, group by group.
    fn stacked_linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>, rows: GroupRows) -> FloatTensor<Self> {
        stacked_linear::reference_backward_weight::<Self>(x, grad, rows)
    }

    /// See [`crate::lora_linear()`]; returns the result, and `scale · dropout(x) Aᵀ` for the backward.
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        lora_linear::reference::<Self>(x, weight, lora_a, lora_b, scale, dropout)
    }

    /// `scale · dropout(x) Aᵀ`, the second result of [`FusedBackend::lora_linear`] by itself.
    fn lora_hidden(
        x: FloatTensor<Self>,
        lora_a: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> FloatTensor<Self> {
        lora_linear::reference_hidden::<Self>(x, lora_a, scale, dropout)
    }

    /// Gradients of [`FusedBackend::lora_linear`], for `saved.x` where asked for.
    fn lora_linear_backward(saved: LoraSaved<Self>, grad: FloatTensor<Self>, input_gradient: bool) -> LoraGradients<Self> {
        lora_linear::reference_backward::<Self>(saved, grad, input_gradient)
    }

    /// See [`crate::packed_lora_linear()`]; returns what [`FusedBackend::lora_linear`] does.
    fn packed_lora_linear(
        x: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        lora_a: FloatTensor<Self>,
        lora_b: FloatTensor<Self>,
        scale: f64,
        dropout: Option<Dropout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        lora_linear::packed::reference::<Self>(x, weight, lora_a, lora_b, scale, dropout)
    }

    /// Gradients of [`FusedBackend::packed_lora_linear`], for `saved.x` where asked for.
    fn packed_lora_linear_backward(
        saved: LoraSaved<Self, PackedTensor<Self>>,
        grad: FloatTensor<Self>,
        input_gradient: bool,
    ) -> LoraGradients<Self> {
        lora_linear::packed::reference_backward::<Self>(saved, grad, input_gradient)
    }

    /// See [`crate::linear_cross_entropy()`].
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::reference::<Self>(hidden, weight, labels)
    }

    /// As [`FusedBackend::linear_cross_entropy`], with the gradient of each loss for its row of `hidden`.
    fn linear_cross_entropy_with_gradient(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        linear_cross_entropy::reference_with_gradient::<Self>(hidden, weight, labels)
    }

    /// Gradient of the losses, each times its factor, for `weight`; `factors` are `[tokens]`, f32.
    fn linear_cross_entropy_backward_weight(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
        factors: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::reference_backward_weight::<Self>(hidden, weight, labels, factors)
    }

    /// See [`crate::packed_linear_cross_entropy()`].
    fn packed_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        labels: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::packed::reference::<Self>(hidden, weight, labels)
    }

    /// As [`FusedBackend::packed_linear_cross_entropy`], with the gradient of each loss for its row of `hidden`.
    fn packed_linear_cross_entropy_with_gradient(
        hidden: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        labels: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        linear_cross_entropy::packed::reference_with_gradient::<Self>(hidden, weight, labels)
    }

    /// See [`crate::capped_linear_cross_entropy()`].
    fn capped_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: IntTensor<Self>,
        cap: f64,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::capped::reference::<Self>(hidden, weight, labels, cap)
    }

    /// See [`crate::packed_capped_linear_cross_entropy()`].
    fn packed_capped_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: PackedTensor<Self>,
        labels: IntTensor<Self>,
        cap: f64,
    ) -> FloatTensor<Self> {
        linear_cross_entropy::capped::packed_reference::<Self>(hidden, weight, labels, cap)
    }

    /// See [`crate::select_rows()`].
    fn select_rows(x: FloatTensor<Self>, positions: IntTensor<Self>) -> FloatTensor<Self> {
        select_rows::reference::<Self>(x, positions)
    }

    /// Gradient of [`FusedBackend::select_rows`], `[rows, features]`.
    fn select_rows_backward(grad: FloatTensor<Self>, positions: IntTensor<Self>, rows: usize) -> FloatTensor<Self> {
        select_rows::reference_backward::<Self>(grad, positions, rows)
    }

    /// See [`crate::adamw()`].
    fn adamw(tensors: AdamWTensors<Self>, step: AdamWStep) -> [FloatTensor<Self>; 3] {
        adamw::reference::<Self>(tensors, step)
    }

    /// See [`crate::adamw8bit()`].
    fn adamw8bit(tensors: AdamW8bitTensors<Self>, step: AdamWStep) -> AdamW8bitUpdate<Self> {
        adamw8bit::reference::<Self>(tensors, step)
    }

    /// See [`crate::pack()`].
    fn pack(tensors: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        pack::reference::<Self>(tensors)
    }

    /// See [`crate::unpack()`].
    fn unpack(packed: &FloatTensor<Self>, shapes: Vec<Shape>) -> Vec<FloatTensor<Self>> {
        pack::reference_unpack::<Self>(packed, shapes)
    }

    /// See [`crate::squared_norm()`].
    fn squared_norm(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> FloatTensor<Self> {
        squared_norm::reference::<Self>(tensors, device)
    }

    /// See [`crate::sample_tokens()`].
    fn sample_tokens(logits: FloatTensor<Self>, draw: TokenDraw) -> IntTensor<Self> {
        sample_tokens::reference::<Self>(logits, draw)
    }

    /// The device memory that the backend uses, where it knows.
    fn device_memory(_device: &Self::Device) -> Option<DeviceMemory> {
        None
    }

    /// Reads [`FusedBackend::device_memory`] of the calling thread's work from other threads, where the backend knows.
    fn memory_probe(_device: &Self::Device) -> Option<MemoryProbe> {
        None
    }

    /// The vendor's library that computes large matrix products on a device, with its version, where there is one.
    fn product_library(_device: &Self::Device) -> Option<String> {
        None
    }

    /// Notes the products that a device computes from now on, for [`FusedBackend::product_trials`].
    fn note_products(device: &Self::Device) {
        let _ = device;
    }

    /// The classes of the products that were noted, each to be tried with the candidates of the device. Nothing is noted any longer. Empty
    /// where products are computed in one way only.
    fn product_trials(device: &Self::Device) -> Vec<Box<dyn ProductTrial>> {
        let _ = device;
        Vec::new()
    }

    /// Computes products of these classes by these candidates from now on, and all others by default.
    fn choose_products(device: &Self::Device, chosen: &BTreeMap<String, String>) {
        let _ = (device, chosen);
    }

    /// The largest tensor that the device can allocate, in bytes, where the backend knows.
    fn largest_allocation(_device: &Self::Device) -> Option<u64> {
        None
    }

    /// See [`crate::view()`].
    fn view(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self> {
        Self::float_reshape(x, shape)
    }

    /// See [`crate::scale()`].
    fn scale(x: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        unsaved::reference_scale::<Self>(x, factor)
    }

    /// See [`crate::add_bias()`].
    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        unsaved::reference_add_bias::<Self>(x, bias)
    }
}
