//! The runtime of the GPU.

use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;
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

    burnish_kernels::runtime_from!(WgpuRuntime);
}

/// burn on [`MetalRuntime`].
pub type Metal = burn_cubecl::CubeBackend<MetalRuntime, f32, i32, u8>;

impl burnish_kernels::KernelRuntime for MetalRuntime {
    const FUSED: bool = true;

    fn has_tensor_operations(_: &WgpuDevice) -> bool {
        crate::chip::has_tensor_operations()
    }
}

/// Compiles the kernels into this crate. Half of their code does not depend on the runtime; without this, each crate that launches them,
/// such as a test, would compile that half again.
#[doc(hidden)]
pub fn compile() {
    <MetalRuntime as burnish_kernels::KernelRuntime>::compile::<Metal>();
}
