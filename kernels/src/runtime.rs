//! The backends that this crate knows by name, and which of them run its kernels.

#[cfg(any(feature = "candle", feature = "ndarray", feature = "tch"))]
use crate::FusedBackend;

// burn 0.21 marks its Candle backend deprecated; it is one of the backends that users compare.
#[cfg(feature = "candle")]
#[allow(deprecated)]
impl FusedBackend for burn_candle::Candle {}

#[cfg(feature = "ndarray")]
impl FusedBackend for burn_ndarray::NdArray {}

#[cfg(feature = "tch")]
impl FusedBackend for burn_tch::LibTorch {}

/// cubecl, for [`crate::runtime_from`].
#[cfg(feature = "cube")]
#[doc(hidden)]
pub use cubecl::original as cubecl;

/// Functions of cubecl's `Runtime`, to be used within its `impl` for a runtime on the devices of another one, `$inner`.
#[cfg(feature = "cube")]
#[macro_export]
macro_rules! runtime_from {
    ($inner:ty) => {
        fn max_cube_count() -> (u32, u32, u32) {
            <$inner as $crate::runtime::cubecl::Runtime>::max_cube_count()
        }

        fn can_read_tensor(
            shape: &$crate::runtime::cubecl::zspace::Shape,
            strides: &$crate::runtime::cubecl::zspace::Strides,
        ) -> bool {
            <$inner as $crate::runtime::cubecl::Runtime>::can_read_tensor(shape, strides)
        }

        fn target_properties() -> $crate::runtime::cubecl::ir::TargetProperties {
            <$inner as $crate::runtime::cubecl::Runtime>::target_properties()
        }

        fn enumerate_devices(
            kind: u16,
            info: &<Self::Server as $crate::runtime::cubecl::server::ComputeServer>::Info,
        ) -> Vec<$crate::runtime::cubecl::device::DeviceId> {
            <$inner as $crate::runtime::cubecl::Runtime>::enumerate_devices(kind, info)
        }
    };
}

#[cfg(feature = "cube")]
pub use crate::cube::runtime::KernelRuntime;

#[cfg(feature = "wgpu")]
impl KernelRuntime for cubecl::wgpu::WgpuRuntime {
    const FUSED: bool = false;
}

/// burn on its own wgpu runtime. burn-wgpu's alias of that name is another type where the feature `fusion` is on.
#[cfg(feature = "wgpu")]
pub type Wgpu = burn_cubecl::CubeBackend<cubecl::wgpu::WgpuRuntime, f32, i32, u32>;

/// burn on its CUDA runtime, whatever burn-cuda's alias is.
#[cfg(all(feature = "cuda", not(target_os = "macos")))]
pub type Cuda = burn_cubecl::CubeBackend<cubecl_cuda::CudaRuntime, f32, i32, u8>;

/// burn on AMD's GPUs, without kernels of this crate, which have not been run there.
#[cfg(feature = "rocm")]
pub type Rocm = burn_cubecl::CubeBackend<cubecl::hip::HipRuntime, f32, i32, u8>;

#[cfg(feature = "rocm")]
impl KernelRuntime for cubecl::hip::HipRuntime {
    const FUSED: bool = false;
}

/// The wgpu runtime without kernels or gradients of this crate, to compare with burn alone.
#[cfg(feature = "wgpu")]
#[derive(Debug, Clone)]
pub struct StockWgpuRuntime;

/// burn on [`StockWgpuRuntime`].
#[cfg(feature = "wgpu")]
pub type StockWgpu = burn_cubecl::CubeBackend<StockWgpuRuntime, f32, i32, u32>;

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
mod cublaslt;
#[cfg(all(feature = "cuda", not(target_os = "macos")))]
mod hopper;

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
use {
    crate::attention::{self, AttentionOptions, Statistics},
    crate::cube::BackendOn,
    burn::tensor::ops::{FloatTensor, IntTensor},
};

#[cfg(feature = "wgpu")]
mod stock {
    use cubecl::Runtime;
    use cubecl::client::ComputeClient;
    use cubecl::wgpu::WgpuRuntime;

    use super::{KernelRuntime, StockWgpuRuntime};

    impl Runtime for StockWgpuRuntime {
        type Compiler = <WgpuRuntime as Runtime>::Compiler;
        type Server = <WgpuRuntime as Runtime>::Server;
        type Device = <WgpuRuntime as Runtime>::Device;

        fn client(device: &Self::Device) -> ComputeClient<Self> {
            ComputeClient::load(device)
        }

        fn name(_: &ComputeClient<Self>) -> &'static str {
            "wgpu-stock"
        }

        crate::runtime_from!(WgpuRuntime);
    }

    impl KernelRuntime for StockWgpuRuntime {
        const FUSED: bool = false;
        const OWN_GRADIENTS: bool = false;
    }
}

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
impl KernelRuntime for cubecl_cuda::CudaRuntime {
    const FUSED: bool = true;

    fn product_library(device: &Self::Device) -> Option<&'static dyn crate::ProductLibrary> {
        cublaslt::of(device)
    }

    fn segment_attention<B: BackendOn<Self>>(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        segments: Option<IntTensor<B>>,
        options: AttentionOptions,
    ) -> FloatTensor<B> {
        if !hopper::takes(&[&query, &key, &value], segments.as_ref(), options) {
            return attention::cube::forward::<Self, B>(query, key, value, segments, options);
        }
        hopper::forward([query, key, value], segments, options).0
    }

    fn attention_for_backward<B: BackendOn<Self>>(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        segments: Option<IntTensor<B>>,
        options: AttentionOptions,
    ) -> (FloatTensor<B>, Option<Statistics<B>>) {
        if !hopper::takes(&[&query, &key, &value], segments.as_ref(), options) {
            return attention::cube::forward_for_backward::<Self, B>(query, key, value, segments, options);
        }
        let (output, log_sum_exp) = hopper::forward([query, key, value], segments, options);
        (output.clone(), Some(Statistics { output, log_sum_exp }))
    }

    fn attention_backward<B: BackendOn<Self>>(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        segments: Option<IntTensor<B>>,
        statistics: Option<Statistics<B>>,
        grad: FloatTensor<B>,
        options: AttentionOptions,
    ) -> [FloatTensor<B>; 3] {
        match statistics {
            Some(Statistics { output, log_sum_exp })
                if hopper::takes(&[&query, &key, &value, &grad], segments.as_ref(), options) =>
            {
                hopper::backward([query, key, value], segments, [output, log_sum_exp, grad], options)
            }
            statistics => attention::cube::backward::<Self, B>(query, key, value, segments, statistics, grad, options),
        }
    }

    /// cubecl-cuda 0.10 allows pages of a quarter of the device's memory, and does not report the memory itself.
    fn total_memory(client: &cubecl::client::ComputeClient<Self>) -> Option<u64> {
        Some(4 * client.properties().memory.max_page_size)
    }
}
