//! Which operations run as kernels on a runtime: the trait that each runtime implements.

use burn::tensor::DType;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn_cubecl::CubeRuntime;
use cubecl::client::ComputeClient;

use super::BackendOn;
use crate::adamw::{AdamWStep, AdamWTensors};
use crate::adamw8bit::{AdamW8bitTensors, AdamW8bitUpdate};
use crate::attention::{AttentionOptions, Statistics};
use crate::dropout::Dropout;
use crate::glu::Activation;
use crate::lora_linear::{LoraGradients, LoraSaved};
use crate::matrix::ProductLibrary;
use crate::packed::PackedTensor;
use crate::sample_tokens::{self, TokenDraw};
use crate::{
    adamw, adamw8bit, append, attention, dropout, glu, layer_norm, linear, linear_cross_entropy, lora_linear, pack,
    rms_norm, rotary, select_rows, squared_norm,
};

/// Methods that run a kernel where the runtime is fused, else the composed reference.
macro_rules! operations {
    ($($kernel:path | $reference:path: fn $name:ident($($input:ident: $kind:ty),* $(,)?) -> $out:ty;)*) => {$(
        #[doc = concat!("See [`FusedBackend::", stringify!($name), "`](crate::FusedBackend::", stringify!($name), ").")]
        fn $name<B: BackendOn<Self>>($($input: $kind),*) -> $out {
            if Self::FUSED { $kernel($($input),*) } else { $reference($($input),*) }
        }
    )*

        /// Compiles these operations on this runtime in the crate that calls it, whose dependents then don't compile them again.
        #[doc(hidden)]
        fn compile<B: BackendOn<Self>>() {
            let operations = [Self::attention_backward::<B> as *const (), $(Self::$name::<B> as *const ()),*];
            std::hint::black_box(operations);
        }
    };
}

/// A cubecl runtime, and the operations of this crate on it.
///
/// One method for each operation of [`FusedBackend`](crate::FusedBackend). By default it runs the kernel of this crate where the
/// runtime is [`FUSED`](Self::FUSED), and the composed reference elsewhere: stock runtimes answer no, so that their backends stay
/// burn's own and comparisons with them are fair. To replace one operation on a runtime of your own, override its method:
///
/// ```
/// # #[cfg(feature = "wgpu")]
/// # mod example {
/// use burn::tensor::ops::FloatTensor;
/// use burn_cubecl::CubeBackend;
/// use burnish_kernels::runtime::cubecl::wgpu::WgpuRuntime;
/// use burnish_kernels::runtime::cubecl::{Runtime, client::ComputeClient};
/// use burnish_kernels::{BackendOn, KernelRuntime, rms_norm};
///
/// #[derive(Debug, Clone)]
/// pub struct MyRuntime;
///
/// impl Runtime for MyRuntime {
///     type Compiler = <WgpuRuntime as Runtime>::Compiler;
///     type Server = <WgpuRuntime as Runtime>::Server;
///     type Device = <WgpuRuntime as Runtime>::Device;
///
///     fn client(device: &Self::Device) -> ComputeClient<Self> {
///         ComputeClient::load(device)
///     }
///
///     fn name(_: &ComputeClient<Self>) -> &'static str {
///         "mine"
///     }
///
///     burnish_kernels::runtime_from!(WgpuRuntime);
/// }
///
/// impl KernelRuntime for MyRuntime {
///     const FUSED: bool = true;
///
///     fn rms_norm<B: BackendOn<Self>>(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
///         // A kernel of your own; any burn operation of `B` works here too.
///         rms_norm::reference::<B>(x, weight, epsilon)
///     }
/// }
///
/// /// A backend for everything in Burnish.
/// pub type MyBackend = CubeBackend<MyRuntime, f32, i32, u32>;
/// # }
/// ```
pub trait KernelRuntime: CubeRuntime {
    /// Whether operations run as kernels of this crate.
    const FUSED: bool;

    /// See [`FusedBackend::OWN_GRADIENTS`](crate::FusedBackend::OWN_GRADIENTS).
    const OWN_GRADIENTS: bool = true;

    /// The memory of the device in bytes, where the runtime knows it.
    fn total_memory(client: &ComputeClient<Self>) -> Option<u64> {
        let _ = client;
        None
    }

    /// The vendor's library of matrix products for a device, where there is one; dense products of some size go to it.
    fn product_library(device: &Self::Device) -> Option<&'static dyn ProductLibrary> {
        let _ = device;
        None
    }

    /// Whether the runtime replaces marks in kernels by Metal's tensor operations, and the device may have matrix units for them. What
    /// they compute is checked before it is used.
    fn has_tensor_operations(device: &Self::Device) -> bool {
        let _ = device;
        false
    }

    /// See [`FusedBackend::attention_backward`](crate::FusedBackend::attention_backward).
    fn attention_backward<B: BackendOn<Self>>(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        segments: Option<IntTensor<B>>,
        statistics: Option<Statistics<B>>,
        grad: FloatTensor<B>,
        options: AttentionOptions,
    ) -> [FloatTensor<B>; 3] {
        attention::cube::backward::<Self, B>(query, key, value, segments, statistics, grad, options)
    }

    /// See [`FusedBackend::select_rows`](crate::FusedBackend::select_rows).
    fn select_rows<B: BackendOn<Self>>(x: FloatTensor<B>, positions: IntTensor<B>) -> FloatTensor<B> {
        select_rows::reference::<B>(x, positions)
    }

    operations! {
        rms_norm::cube::forward::<Self, B> | rms_norm::reference::<B>:
        fn rms_norm(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64) -> FloatTensor<B>;

        rms_norm::cube::add_forward::<Self, B> | rms_norm::reference_add::<B>:
        fn add_rms_norm(x: FloatTensor<B>, residual: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64)
            -> (FloatTensor<B>, FloatTensor<B>);

        rms_norm::cube::backward::<Self, B> | rms_norm::reference_backward::<B>:
        fn rms_norm_backward(
            x: FloatTensor<B>,
            weight: FloatTensor<B>,
            grad: FloatTensor<B>,
            residual: Option<FloatTensor<B>>,
            epsilon: f64,
            weight_gradient: bool,
        ) -> (FloatTensor<B>, Option<FloatTensor<B>>);

        layer_norm::cube::forward::<Self, B> | layer_norm::reference::<B>:
        fn row_layer_norm(x: FloatTensor<B>, weight: FloatTensor<B>, bias: FloatTensor<B>, epsilon: f64) -> FloatTensor<B>;

        layer_norm::cube::backward::<Self, B> | layer_norm::reference_backward::<B>:
        fn row_layer_norm_backward(
            x: FloatTensor<B>,
            weight: FloatTensor<B>,
            grad: FloatTensor<B>,
            epsilon: f64,
            weight_gradients: bool,
        ) -> (FloatTensor<B>, Option<[FloatTensor<B>; 2]>);

        rotary::cube::rotate::<Self, B> | rotary::reference_both::<B>:
        fn rotary(heads: [FloatTensor<B>; 2], cos: FloatTensor<B>, sin: FloatTensor<B>, inverse: bool)
            -> [FloatTensor<B>; 2];

        glu::cube::forward::<Self, B> | glu::reference::<B>:
        fn glu(gate: FloatTensor<B>, up: FloatTensor<B>, activation: Activation) -> FloatTensor<B>;

        glu::cube::backward::<Self, B> | glu::reference_backward::<B>:
        fn glu_backward(gate: FloatTensor<B>, up: FloatTensor<B>, grad: FloatTensor<B>, activation: Activation)
            -> (FloatTensor<B>, FloatTensor<B>);

        dropout::cube::forward::<Self, B> | dropout::reference::<B>:
        fn dropout(x: FloatTensor<B>, dropout: Dropout) -> FloatTensor<B>;

        attention::cube::forward::<Self, B> | attention::reference::<B>:
        fn segment_attention(
            query: FloatTensor<B>,
            key: FloatTensor<B>,
            value: FloatTensor<B>,
            segments: Option<IntTensor<B>>,
            options: AttentionOptions,
        ) -> FloatTensor<B>;

        attention::cube::forward_for_backward::<Self, B> | attention::reference_for_backward::<B>:
        fn attention_for_backward(
            query: FloatTensor<B>,
            key: FloatTensor<B>,
            value: FloatTensor<B>,
            segments: Option<IntTensor<B>>,
            options: AttentionOptions,
        ) -> (FloatTensor<B>, Option<Statistics<B>>);

        linear::cube::forward::<Self, B> | linear::reference::<B>:
        fn dense_linear(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B>;

        linear::cube::forwards::<Self, B> | linear::references::<B>:
        fn dense_linears(x: FloatTensor<B>, weights: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>>;

        linear::cube::glu::<Self, B> | linear::reference_glu::<B>:
        fn glu_linear(x: FloatTensor<B>, weights: [FloatTensor<B>; 2], activation: Activation) -> FloatTensor<B>;

        append::cube::append::<Self, B> | append::reference::<B>:
        fn append(buffers: [FloatTensor<B>; 2], new: [FloatTensor<B>; 2], start: usize) -> [FloatTensor<B>; 2];

        append::cube::append_rotated::<Self, B> | append::reference_rotated::<B>:
        fn append_rotated(
            query: FloatTensor<B>,
            new: [FloatTensor<B>; 2],
            table: [FloatTensor<B>; 2],
            buffers: [FloatTensor<B>; 2],
            start: usize,
        ) -> (FloatTensor<B>, [FloatTensor<B>; 2]);

        append::cube::prefix::<Self, B> | append::reference_prefix::<B>:
        fn prefix(buffer: FloatTensor<B>, length: usize) -> FloatTensor<B>;

        linear::cube::backward_input::<Self, B> | linear::reference_backward_input::<B>:
        fn linear_backward_input(grad: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B>;

        linear::cube::backward_weight::<Self, B> | linear::reference_backward_weight::<B>:
        fn linear_backward_weight(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B>;

        linear::packed::cube::forward::<Self, B> | linear::packed::reference::<B>:
        fn packed_linear(x: FloatTensor<B>, weight: PackedTensor<B>) -> FloatTensor<B>;

        linear::packed::cube::forwards::<Self, B> | linear::packed::references::<B>:
        fn packed_linears(x: FloatTensor<B>, weights: Vec<PackedTensor<B>>) -> Vec<FloatTensor<B>>;

        linear::packed::cube::glu::<Self, B> | linear::packed::reference_glu::<B>:
        fn packed_glu_linear(x: FloatTensor<B>, weights: [PackedTensor<B>; 2], activation: Activation) -> FloatTensor<B>;

        linear::packed::cube::backward_input::<Self, B> | linear::packed::reference_backward_input::<B>:
        fn packed_linear_backward_input(grad: FloatTensor<B>, weight: PackedTensor<B>) -> FloatTensor<B>;

        linear::packed::cube::rows::<Self, B> | linear::packed::reference_rows::<B>:
        fn packed_rows(weight: PackedTensor<B>, rows: IntTensor<B>, dtype: DType) -> FloatTensor<B>;

        lora_linear::cube::forward::<Self, B> | lora_linear::reference::<B>:
        fn lora_linear(
            x: FloatTensor<B>,
            weight: FloatTensor<B>,
            lora_a: FloatTensor<B>,
            lora_b: FloatTensor<B>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<B>, FloatTensor<B>);

        lora_linear::cube::hidden::<Self, B> | lora_linear::reference_hidden::<B>:
        fn lora_hidden(x: FloatTensor<B>, lora_a: FloatTensor<B>, scale: f64, dropout: Option<Dropout>) -> FloatTensor<B>;

        lora_linear::cube::backward::<Self, B> | lora_linear::reference_backward::<B>:
        fn lora_linear_backward(saved: LoraSaved<B>, grad: FloatTensor<B>, input_gradient: bool) -> LoraGradients<B>;

        lora_linear::cube::packed_forward::<Self, B> | lora_linear::packed::reference::<B>:
        fn packed_lora_linear(
            x: FloatTensor<B>,
            weight: PackedTensor<B>,
            lora_a: FloatTensor<B>,
            lora_b: FloatTensor<B>,
            scale: f64,
            dropout: Option<Dropout>,
        ) -> (FloatTensor<B>, FloatTensor<B>);

        lora_linear::cube::packed_backward::<Self, B> | lora_linear::packed::reference_backward::<B>:
        fn packed_lora_linear_backward(
            saved: LoraSaved<B, PackedTensor<B>>,
            grad: FloatTensor<B>,
            input_gradient: bool,
        ) -> LoraGradients<B>;

        linear_cross_entropy::cube::forward::<Self, B> | linear_cross_entropy::reference::<B>:
        fn linear_cross_entropy(hidden: FloatTensor<B>, weight: FloatTensor<B>, labels: IntTensor<B>) -> FloatTensor<B>;

        linear_cross_entropy::cube::forward_with_gradient::<Self, B> | linear_cross_entropy::reference_with_gradient::<B>:
        fn linear_cross_entropy_with_gradient(hidden: FloatTensor<B>, weight: FloatTensor<B>, labels: IntTensor<B>)
            -> (FloatTensor<B>, FloatTensor<B>);

        linear_cross_entropy::cube::packed_forward::<Self, B> | linear_cross_entropy::packed::reference::<B>:
        fn packed_linear_cross_entropy(hidden: FloatTensor<B>, weight: PackedTensor<B>, labels: IntTensor<B>)
            -> FloatTensor<B>;

        linear_cross_entropy::cube::packed_forward_with_gradient::<Self, B>
            | linear_cross_entropy::packed::reference_with_gradient::<B>:
        fn packed_linear_cross_entropy_with_gradient(hidden: FloatTensor<B>, weight: PackedTensor<B>, labels: IntTensor<B>)
            -> (FloatTensor<B>, FloatTensor<B>);

        linear_cross_entropy::cube::backward_weight::<Self, B> | linear_cross_entropy::reference_backward_weight::<B>:
        fn linear_cross_entropy_backward_weight(
            hidden: FloatTensor<B>,
            weight: FloatTensor<B>,
            labels: IntTensor<B>,
            factors: FloatTensor<B>,
        ) -> FloatTensor<B>;

        select_rows::cube::backward::<Self, B> | select_rows::reference_backward::<B>:
        fn select_rows_backward(grad: FloatTensor<B>, positions: IntTensor<B>, rows: usize) -> FloatTensor<B>;

        adamw::cube::update::<Self, B> | adamw::reference::<B>:
        fn adamw(tensors: AdamWTensors<B>, step: AdamWStep) -> [FloatTensor<B>; 3];

        adamw8bit::cube::update::<Self, B> | adamw8bit::reference::<B>:
        fn adamw8bit(tensors: AdamW8bitTensors<B>, step: AdamWStep) -> AdamW8bitUpdate<B>;

        pack::cube::pack::<Self, B> | pack::reference::<B>:
        fn pack(tensors: Vec<FloatTensor<B>>) -> FloatTensor<B>;

        squared_norm::cube::sum::<Self, B> | squared_norm::reference::<B>:
        fn squared_norm(tensors: Vec<FloatTensor<B>>, device: &B::Device) -> FloatTensor<B>;

        sample_tokens::cube::sample::<Self, B> | sample_tokens::reference::<B>:
        fn sample_tokens(logits: FloatTensor<B>, draw: TokenDraw) -> IntTensor<B>;
    }
}
