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

    /// See [`FusedBackend::OWN_GRADIENTS`](crate::FusedBackend::OWN_GRADIENTS).
    const OWN_GRADIENTS: bool = true;
}

#[cfg(feature = "wgpu")]
impl KernelRuntime for cubecl::wgpu::WgpuRuntime {
    const FUSED: bool = false;
}

/// The wgpu runtime without anything of ours: what a program on burn alone trains on, to compare with.
#[cfg(feature = "wgpu")]
#[derive(Debug, Clone)]
pub struct StockWgpuRuntime;

/// burn on [`StockWgpuRuntime`].
#[cfg(feature = "wgpu")]
pub type StockWgpu = burn_cubecl::CubeBackend<StockWgpuRuntime, f32, i32, u32>;

#[cfg(feature = "wgpu")]
mod stock {
    use cubecl::Runtime;
    use cubecl::client::ComputeClient;
    use cubecl::device::DeviceId;
    use cubecl::ir::TargetProperties;
    use cubecl::server::ComputeServer;
    use cubecl::wgpu::WgpuRuntime;
    use cubecl::zspace::{Shape, Strides};

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

        fn max_cube_count() -> (u32, u32, u32) {
            WgpuRuntime::max_cube_count()
        }

        fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
            WgpuRuntime::can_read_tensor(shape, strides)
        }

        fn target_properties() -> TargetProperties {
            WgpuRuntime::target_properties()
        }

        fn enumerate_devices(kind: u16, info: &<Self::Server as ComputeServer>::Info) -> Vec<DeviceId> {
            WgpuRuntime::enumerate_devices(kind, info)
        }
    }

    impl KernelRuntime for StockWgpuRuntime {
        const FUSED: bool = false;
        const OWN_GRADIENTS: bool = false;
    }
}

#[cfg(all(feature = "cuda", not(target_os = "macos")))]
impl KernelRuntime for cubecl_cuda::CudaRuntime {
    const FUSED: bool = true;
}
