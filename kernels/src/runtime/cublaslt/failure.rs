//! How a failed product becomes an error of its stream.

use cubecl::Runtime;
use cubecl::prelude::CubeCount;
use cubecl::server::{ComputeServer, ExecutionMode, KernelArguments};
use cubecl_common::backtrace::BackTrace;
use cubecl_common::stream_id::StreamId;
use cubecl_cuda::CudaRuntime;
use cubecl_ir::{ElemType, StorageType, UIntKind};
use cubecl_runtime::compiler::{CompilationError, Compiler, CubeTask};
use cubecl_runtime::id::KernelId;
use cubecl_runtime::kernel::{CompiledKernel, KernelMetadata};

use super::server::Server;

type Cuda = <CudaRuntime as Runtime>::Compiler;

/// A task that never compiles.
struct Failure(String);

impl KernelMetadata for Failure {
    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.0.clone())
    }

    fn address_type(&self) -> StorageType {
        StorageType::Scalar(ElemType::UInt(UIntKind::U32))
    }
}

impl CubeTask<Cuda> for Failure {
    fn compile(
        &self,
        _: &mut Cuda,
        _: &<Cuda as Compiler>::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<Cuda>, CompilationError> {
        Err(CompilationError::Generic { reason: self.0.clone(), backtrace: BackTrace::capture() })
    }
}

/// Puts an error into the list of a stream, where its next read or synchronisation finds it.
pub(super) fn report(server: &mut Server, stream: StreamId, reason: String) {
    let task = Box::new(Failure(reason));
    // SAFETY: it does not compile, so it never runs.
    unsafe { server.launch(task, CubeCount::Static(1, 1, 1), KernelArguments::new(), ExecutionMode::Checked, stream) };
}
