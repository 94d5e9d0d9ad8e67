//! The compute server of the GPU: wgpu's, with every kernel's text repaired, and every failure kept for the caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use cubecl_common::bytes::Bytes;
use cubecl_common::device::{DeviceId, DeviceService};
use cubecl_common::profile::ProfileDuration;
use cubecl_common::stream_id::StreamId;
use cubecl_core::CompilationError;
use cubecl_core::CubeCount;
use cubecl_core::device::ServerUtilitiesHandle;
use cubecl_core::future::DynFut;
use cubecl_core::server::{
    Binding, ComputeServer, CopyDescriptor, ExecutionMode, KernelArguments, ProfileError, ProfilingToken,
    ServerCommunication, ServerError, ServerUtilities,
};
use cubecl_ir::StorageType;
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::compiler::{Compiler, CubeTask};
use cubecl_runtime::id::KernelId;
use cubecl_runtime::kernel::{CompiledKernel, KernelMetadata};
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{ManagedMemoryHandle, MemoryAllocationMode, MemoryUsage};
use cubecl_runtime::storage::{ComputeStorage, ManagedResource};
use cubecl_wgpu::{AutoCompiler, AutoRepresentation, WgpuServer};

use crate::broken::is_never_launched;
use crate::errors::{Errors, message_of};
use crate::lint::lint;
use crate::repair::{asked_to_skip, note, repair};
use crate::threadgroup::ordered;

/// A kernel whose emitted Metal text is repaired. Its identity is that of the inner kernel, so that caches of pipelines and tuning
/// results still work.
struct RepairedTask(Box<dyn CubeTask<AutoCompiler>>);

impl KernelMetadata for RepairedTask {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn id(&self) -> KernelId {
        self.0.id()
    }

    fn address_type(&self) -> StorageType {
        self.0.address_type()
    }
}

impl CubeTask<AutoCompiler> for RepairedTask {
    fn compile(
        &self,
        compiler: &mut AutoCompiler,
        options: &<AutoCompiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<AutoCompiler>, CompilationError> {
        let mut kernel = self.0.compile(compiler, options, mode, address_type)?;
        if let Some(AutoRepresentation::Msl(metal)) = &mut kernel.repr
            && let Some(text) = ordered(metal)
        {
            kernel.source = text;
        }
        // Texts in WGSL or SPIR-V need no repair.
        if kernel.source.contains("#include <metal_stdlib>") {
            kernel.source = metal_source(&kernel.entrypoint_name, &kernel.source)?;
        }
        Ok(kernel)
    }
}

/// The repaired text, which must pass the lint.
fn metal_source(name: &str, emitted: &str) -> Result<String, CompilationError> {
    let (source, applied) = repair(emitted).into_parts();
    if !applied.is_empty() {
        tracing::debug!(kernel = name, rules = ?applied, "repaired");
        note(name, &applied);
    }
    let findings = lint(&source);
    if findings.is_empty() {
        return Ok(source);
    }
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if !asked_to_skip().is_empty() {
        // A repair is skipped to see what Apple's compiler does with the text.
        tracing::warn!(kernel = name, "{}", findings.join("; "));
        return Ok(source);
    }
    Err(CompilationError::Generic {
        reason: format!("{name}: {}", findings.join("; ")),
        backtrace: cubecl_common::backtrace::BackTrace::capture(),
    })
}

/// wgpu's server behind repair and error keeping.
#[derive(Debug)]
pub struct MetalServer {
    inner: WgpuServer,
    utilities: Arc<ServerUtilities<Self>>,
    errors: Errors,
}

impl MetalServer {
    /// Calls the inner server, and turns a panic into an error of the stream: on the device's thread it would not reach the caller.
    /// wgpu panics at a text that does not compile, a lost device or missing memory, cubecl at what it can't expand.
    fn guarded<T>(&mut self, stream: StreamId, call: impl FnOnce(&mut WgpuServer) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| call(&mut self.inner))) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.errors.push(stream, Errors::generic(message_of(&*payload)));
                None
            }
        }
    }

    /// As [`Self::guarded`], for a call that can also return an error.
    fn result<T>(
        &mut self,
        stream: StreamId,
        call: impl FnOnce(&mut WgpuServer) -> Result<T, ServerError>,
    ) -> Result<T, ServerError> {
        let called = self.guarded(stream, call);
        self.errors.take([stream])?;
        called.unwrap_or_else(|| Err(Errors::generic("the device does not respond")))
    }

    /// Moves the errors that the inner server keeps for some streams here: it reports a kernel that did not compile only at a flush
    /// or sync, and a read would return what was in the memory before.
    fn collect(&mut self, streams: &[StreamId]) {
        for stream in streams {
            if let Some(Err(error)) = self.guarded(*stream, |inner| inner.flush(*stream)) {
                self.errors.push(*stream, error);
            }
        }
    }

    /// The result of a future, or the error of earlier work.
    fn awaited<T: 'static>(
        future: Option<DynFut<Result<T, ServerError>>>,
        earlier: Result<(), ServerError>,
    ) -> DynFut<Result<T, ServerError>> {
        Box::pin(async move {
            // It is awaited even after an earlier error, since it must unmap its memory at its end.
            let result = match future {
                Some(future) => caught(future).await,
                None => Err(Errors::generic("the device does not respond")),
            };
            earlier.and(result)
        })
    }
}

/// A future whose panic becomes an error: wgpu's read panics where the memory can't be mapped, as on a lost device.
async fn caught<T>(mut future: DynFut<Result<T, ServerError>>) -> Result<T, ServerError> {
    std::future::poll_fn(move |context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))).unwrap_or_else(|payload| {
            let message = message_of(&*payload);
            Poll::Ready(Err(Errors::generic(format!("reading from the device failed, it may be lost: {message}"))))
        })
    })
    .await
}

impl DeviceService for MetalServer {
    fn init(id: DeviceId) -> Self {
        let inner = <WgpuServer as DeviceService>::init(id);
        let own = ComputeServer::utilities(&inner);
        let policy = ContiguousMemoryLayoutPolicy::new(own.properties.memory.alignment as usize);
        let utilities = ServerUtilities::new(own.properties.clone(), own.logger.clone(), own.info, policy);
        Self { inner, utilities: Arc::new(utilities), errors: Errors::default() }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for MetalServer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for MetalServer {
    type Kernel = Box<dyn CubeTask<AutoCompiler>>;
    type Info = <WgpuServer as ComputeServer>::Info;
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = <WgpuServer as ComputeServer>::Storage;

    fn initialize_memory(&mut self, memory: ManagedMemoryHandle, size: u64, stream: StreamId) {
        self.guarded(stream, |inner| inner.initialize_memory(memory, size, stream));
    }

    fn staging(&mut self, sizes: &[usize], stream: StreamId) -> Result<Vec<Bytes>, ServerError> {
        self.inner.staging(sizes, stream)
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.inner.logger()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn read(&mut self, descriptors: Vec<CopyDescriptor>, stream: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let streams: Vec<StreamId> = descriptors.iter().map(|descriptor| descriptor.handle.stream).chain([stream]).collect();
        self.collect(&streams);
        let future = self.guarded(stream, |inner| inner.read(descriptors, stream));
        Self::awaited(future, self.errors.take(streams))
    }

    fn write(&mut self, descriptors: Vec<(CopyDescriptor, Bytes)>, stream: StreamId) {
        self.guarded(stream, |inner| inner.write(descriptors, stream));
    }

    fn sync(&mut self, stream: StreamId) -> DynFut<Result<(), ServerError>> {
        let future = self.guarded(stream, |inner| inner.sync(stream));
        Self::awaited(future, self.errors.take([stream]))
    }

    fn get_resource(
        &mut self,
        binding: Binding,
        stream: StreamId,
    ) -> Result<ManagedResource<<Self::Storage as ComputeStorage>::Resource>, ServerError> {
        self.result(stream, |inner| inner.get_resource(binding, stream))
    }

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        count: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
        stream: StreamId,
    ) {
        if is_never_launched(kernel.name()) {
            return;
        }
        self.guarded(stream, |inner| {
            // SAFETY: the caller ensures that the arguments are what the kernel expects.
            unsafe { inner.launch(Box::new(RepairedTask(kernel)), count, arguments, mode, stream) };
        });
    }

    fn flush(&mut self, stream: StreamId) -> Result<(), ServerError> {
        self.result(stream, |inner| inner.flush(stream))
    }

    fn memory_usage(&mut self, stream: StreamId) -> Result<MemoryUsage, ServerError> {
        self.result(stream, |inner| inner.memory_usage(stream))
    }

    fn memory_cleanup(&mut self, stream: StreamId) {
        self.guarded(stream, |inner| inner.memory_cleanup(stream));
    }

    fn start_profile(&mut self, stream: StreamId) -> Result<ProfilingToken, ServerError> {
        self.result(stream, |inner| inner.start_profile(stream))
    }

    fn end_profile(&mut self, stream: StreamId, token: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        self.inner.end_profile(stream, token)
    }

    fn allocation_mode(&mut self, mode: MemoryAllocationMode, stream: StreamId) {
        self.guarded(stream, |inner| inner.allocation_mode(mode, stream));
    }
}

#[cfg(test)]
#[path = "../tests/text/mod.rs"]
mod text;

#[cfg(test)]
mod tests {
    use cubecl_common::device::Device;
    use cubecl_common::profile::TimingMethod;
    use cubecl_core::client::ComputeClient;
    use cubecl_cpp::MslCompiler;
    use cubecl_runtime::memory_management::MemoryConfiguration;
    use cubecl_wgpu::{AutoGraphicsApi, RuntimeOptions, WgpuDevice, WgpuSetup};

    use super::text::Text;
    use super::*;
    use crate::MetalRuntime;

    fn compiled(text: &'static str) -> Result<String, CompilationError> {
        let task = RepairedTask(Box::new(Text(text)));
        let mut compiler = AutoCompiler::Msl(MslCompiler::default());
        let kernel = task.compile(&mut compiler, &Default::default(), ExecutionMode::Checked, task.address_type())?;
        assert_eq!((task.name(), task.id()), ("text", Text(text).id()));
        Ok(kernel.source)
    }

    #[test]
    fn only_metal_is_repaired() {
        let metal = compiled("#include <metal_stdlib>\nsimdgroup_barrier(mem_flags::mem_none);\n").unwrap();
        assert_eq!(metal, "#include <metal_stdlib>\nsimdgroup_barrier(mem_flags::mem_threadgroup);\n");
        let other = "simdgroup_barrier(mem_flags::mem_none);";
        assert_eq!(compiled(other).unwrap(), other);
    }

    #[test]
    fn what_no_rule_fixes_is_an_error_before_compilation() {
        let error = compiled("#include <metal_stdlib>\nx = #error type double not supported!\n").unwrap_err().to_string();
        assert!(error.contains("text: line 2") && error.contains("double"), "{error}");
    }

    /// A server on a device that can be destroyed while it is in use.
    fn on(setup: &WgpuSetup) -> MetalServer {
        let template = <WgpuServer as DeviceService>::init(WgpuDevice::DefaultDevice.to_id());
        let own = ComputeServer::utilities(&template);
        let policy = || ContiguousMemoryLayoutPolicy::new(own.properties.memory.alignment as usize);
        let inner = WgpuServer::new(
            own.properties.memory.clone(),
            MemoryConfiguration::default(),
            template.compilation_options,
            setup.device.clone(),
            setup.queue.clone(),
            32,
            setup.backend,
            TimingMethod::System,
            ServerUtilities::new(own.properties.clone(), own.logger.clone(), own.info, policy()),
        );
        let utilities = ServerUtilities::new(own.properties.clone(), own.logger.clone(), own.info, policy());
        MetalServer { inner, utilities: Arc::new(utilities), errors: Errors::default() }
    }

    #[test]
    fn a_lost_device_is_an_error_at_the_next_read() {
        let setup = cubecl_wgpu::init_setup::<AutoGraphicsApi>(&WgpuDevice::DefaultDevice, RuntimeOptions::default());
        let client = ComputeClient::<MetalRuntime>::init(&WgpuDevice::Existing(u32::MAX), on(&setup));
        let written = client.create_from_slice(&[1, 2, 3, 4]);
        assert_eq!(&client.read_one(written.clone()).unwrap()[..], [1, 2, 3, 4]);
        setup.device.destroy();
        assert!(client.read_one(written).is_err());
    }
}
