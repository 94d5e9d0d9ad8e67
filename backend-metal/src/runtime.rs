//! The runtime of the GPU.

use cubecl_common::device::DeviceId;
use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;
use cubecl_core::ir::TargetProperties;
use cubecl_core::server::ComputeServer;
use cubecl_core::zspace::{Shape, Strides};
use cubecl_wgpu::{AutoCompiler, WgpuDevice, WgpuRuntime};

use crate::server::MetalServer;

/// cubecl's wgpu runtime behind [`MetalServer`]: Metal's language on macOS, SPIR-V on Linux and Windows.
///
/// It is a type of its own, so that a trait can tell it from the stock runtime, and so that the two stand side by side in one
/// program.
#[derive(Debug, Clone)]
pub struct MetalRuntime;

impl Runtime for MetalRuntime {
    type Compiler = AutoCompiler;
    type Server = MetalServer;
    type Device = WgpuDevice;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        if cfg!(target_os = "macos") { "metal" } else { "vulkan" }
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

/// burn on [`MetalRuntime`].
pub type Metal = burn_cubecl::CubeBackend<MetalRuntime, f32, i32, u8>;

impl burnish_kernels::KernelRuntime for MetalRuntime {
    const FUSED: bool = true;
}
