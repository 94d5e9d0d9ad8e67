//! A kernel with a fixed text, for tests of the steps between a task and a device.

use cubecl_core::ir::{AddressType, StorageType};
use cubecl_core::server::ExecutionMode;
use cubecl_core::{CompilationError, CubeDim};
use cubecl_runtime::compiler::{Compiler, CubeTask};
use cubecl_runtime::id::KernelId;
use cubecl_runtime::kernel::{CompiledKernel, KernelMetadata};
use cubecl_wgpu::AutoCompiler;

/// Its text.
pub struct Text(pub &'static str);

impl KernelMetadata for Text {
    fn name(&self) -> &'static str {
        "text"
    }
    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.0.len())
    }
    fn address_type(&self) -> StorageType {
        AddressType::U32.unsigned_type()
    }
}

impl CubeTask<AutoCompiler> for Text {
    fn compile(
        &self,
        _: &mut AutoCompiler,
        _: &<AutoCompiler as Compiler>::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<AutoCompiler>, CompilationError> {
        Ok(CompiledKernel {
            entrypoint_name: "text".into(),
            debug_name: None,
            source: self.0.into(),
            repr: None,
            cube_dim: CubeDim::new_single(),
            debug_info: None,
        })
    }
}
