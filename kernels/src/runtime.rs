//! Which backends exist here, and which of their operations run as kernels of our own.

#[cfg(feature = "candle")]
use crate::FusedBackend;

// burn 0.21 marks its Candle backend deprecated; it is one of the backends that users compare.
#[cfg(feature = "candle")]
#[allow(deprecated)]
impl FusedBackend for burn_candle::Candle {}

/// A cubecl runtime, and whether the kernels of this crate run on it.
///
/// Stock runtimes answer no, so that their backends stay burn's own and comparing with them is honest.
#[cfg(feature = "cube")]
pub trait KernelRuntime: burn_cubecl::CubeRuntime {
    /// Whether operations run as kernels of ours.
    const FUSED: bool;
}

#[cfg(feature = "wgpu")]
impl KernelRuntime for cubecl::wgpu::WgpuRuntime {
    const FUSED: bool = false;
}

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
impl KernelRuntime for cubecl_cuda::CudaRuntime {
    const FUSED: bool = true;
}
