//! The compute server of the emulator.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use cubecl_common::bytes::Bytes;
use cubecl_common::device::{DeviceId, DeviceService};
use cubecl_common::profile::ProfileDuration;
use cubecl_common::stream_id::StreamId;
use cubecl_core::device::ServerUtilitiesHandle;
use cubecl_core::future::DynFut;
use cubecl_core::server::{
    Binding, ComputeServer, CopyDescriptor, IoError, KernelArguments, ProfileError, ProfilingToken, ServerCommunication,
    ServerError, ServerUtilities,
};
use cubecl_core::{CubeCount, ExecutionMode, MemoryConfiguration, MemoryUsage};
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::compiler::CubeTask;
use cubecl_runtime::id::KernelId;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{
    ManagedMemoryHandle, MemoryAllocationMode, MemoryManagement, MemoryManagementOptions,
};
use cubecl_runtime::storage::{ComputeStorage, ManagedResource};
use cubecl_runtime::timestamp_profiler::TimestampProfiler;

use super::counters;
use super::device::EmulatorDevice;
use super::error::EmulatorError;
use super::kernel::{CompiledKernel, check};
use super::properties::{Compiler, device_properties};
use super::storage::{GuardedResource, GuardedStorage};
use crate::broken::is_never_launched;
use crate::errors::{Errors, message_of};
use crate::repair::{asked_to_skip, note, repair};
use crate::threadgroup::ordered;

/// Executes kernels at once, and keeps their errors for the next read or sync of their stream.
pub struct EmulatorServer {
    device: EmulatorDevice,
    memory: MemoryManagement<GuardedStorage>,
    utilities: Arc<ServerUtilities<Self>>,
    kernels: HashMap<KernelId, Result<Arc<CompiledKernel>, EmulatorError>>,
    timestamps: TimestampProfiler,
    errors: Errors,
}

impl core::fmt::Debug for EmulatorServer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EmulatorServer").field("device", &self.device).finish_non_exhaustive()
    }
}

impl DeviceService for EmulatorServer {
    fn init(id: DeviceId) -> Self {
        let properties = device_properties();
        let logger = Arc::new(ServerLogger::default());
        let memory = MemoryManagement::from_configuration(
            GuardedStorage::default(),
            &properties.memory,
            // Each tensor has its own allocation, so that an access beyond it hits a guard and not another tensor.
            MemoryConfiguration::ExclusivePages,
            logger.clone(),
            MemoryManagementOptions::new("emulator"),
        );
        let policy = ContiguousMemoryLayoutPolicy::new(properties.memory.alignment as usize);
        Self {
            device: cubecl_common::device::Device::from_id(id),
            memory,
            utilities: Arc::new(ServerUtilities::new(properties, logger, (), policy)),
            kernels: HashMap::new(),
            timestamps: TimestampProfiler::default(),
            errors: Errors::default(),
        }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl EmulatorServer {
    fn resource(&mut self, binding: Binding) -> Result<GuardedResource, IoError> {
        self.memory.get_resource(binding.memory, binding.offset_start, binding.offset_end)
    }

    fn kernel(&mut self, task: &dyn CubeTask<Compiler>, mode: ExecutionMode) -> Result<Arc<CompiledKernel>, EmulatorError> {
        let mut id = task.id();
        id.mode(mode);
        let device = self.device;
        self.kernels.entry(id).or_insert_with(|| compile(task, mode, device).map(Arc::new)).clone()
    }

    fn run(
        &mut self,
        task: &dyn CubeTask<Compiler>,
        count: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
    ) -> Result<(), ServerError> {
        if is_never_launched(task.name()) {
            return Ok(());
        }
        let kernel = self.kernel(task, mode).map_err(|error| Errors::generic(error.to_string()))?;
        let count = match count {
            CubeCount::Static(x, y, z) => [x, y, z],
            CubeCount::Dynamic(binding) => {
                let resource = self.resource(binding)?;
                let word =
                    |at: usize| resource.bytes()[4 * at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                [word(0), word(1), word(2)]
            }
        };
        let mut spans = Vec::new();
        for binding in arguments.buffers {
            spans.push(self.resource(binding)?.span());
        }
        // Shapes and scalars are bound after the last buffer: `metal/binding.rs` of cubecl-cpp.
        let mut info = arguments.info.data;
        if !info.is_empty() {
            spans.push((info.as_mut_ptr().cast(), info.len() * size_of_val(&info[0])));
        }
        let find_races = self.device != EmulatorDevice::Quick;
        let ran = kernel.launch(count, &spans, self.device.order(), find_races);
        ran.map(|_| ()).map_err(|error| Errors::generic(error.to_string()))
    }
}

/// Emits, repairs, lints and compiles a kernel. The dialect panics at what it does not support; that becomes an error.
fn compile(
    task: &dyn CubeTask<Compiler>,
    mode: ExecutionMode,
    device: EmulatorDevice,
) -> Result<CompiledKernel, EmulatorError> {
    let (name, repaired) = (task.name(), device != EmulatorDevice::Unrepaired);
    let emit = || task.compile(&mut Compiler::default(), &Default::default(), mode, task.address_type());
    let mut emitted = std::panic::catch_unwind(AssertUnwindSafe(emit))
        .map_err(|payload| EmulatorError::Emit { kernel: name.to_owned(), reason: message_of(&*payload) })?
        .map_err(|error| EmulatorError::emit(name, &error))?;
    if let Some(text) = emitted.repr.as_mut().filter(|_| repaired).and_then(ordered) {
        emitted.source = text;
    }
    let dim = [emitted.cube_dim.x, emitted.cube_dim.y, emitted.cube_dim.z];
    let (source, applied) =
        if repaired { repair(&emitted.source).into_parts() } else { (emitted.source.clone(), Vec::new()) };
    note(&emitted.entrypoint_name, &applied);
    // Without all repairs the text is run as it is.
    if repaired && asked_to_skip().is_empty() {
        check(&source)?;
    }
    CompiledKernel::new(device.text(source), dim, applied)
}

impl ServerCommunication for EmulatorServer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for EmulatorServer {
    type Kernel = Box<dyn CubeTask<Compiler>>;
    type Info = ();
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = GuardedStorage;

    fn initialize_memory(&mut self, memory: ManagedMemoryHandle, size: u64, stream: StreamId) {
        let bound = self.memory.reserve(size).and_then(|reserved| self.memory.bind(reserved, memory, 0));
        match bound {
            Ok(()) => counters::hold(self.memory.memory_usage().bytes_in_use),
            Err(error) => self.errors.push(stream, error.into()),
        }
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn staging(&mut self, _: &[usize], _: StreamId) -> Result<Vec<Bytes>, ServerError> {
        Err(Errors::generic("the emulator has no staging memory"))
    }

    fn read(&mut self, descriptors: Vec<CopyDescriptor>, stream: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let streams = descriptors.iter().map(|descriptor| descriptor.handle.stream).chain([stream]);
        let result = self.errors.take(streams).and_then(|()| {
            let read =
                |descriptor: CopyDescriptor| Ok(Bytes::from_bytes_vec(self.resource(descriptor.handle)?.bytes().to_vec()));
            descriptors.into_iter().map(read).collect()
        });
        Box::pin(async move { result })
    }

    fn write(&mut self, descriptors: Vec<(CopyDescriptor, Bytes)>, stream: StreamId) {
        for (descriptor, data) in descriptors {
            match self.resource(descriptor.handle) {
                Ok(mut resource) => resource.bytes_mut()[..data.len()].copy_from_slice(&data),
                Err(error) => self.errors.push(stream, error.into()),
            }
        }
    }

    fn sync(&mut self, stream: StreamId) -> DynFut<Result<(), ServerError>> {
        let result = self.errors.take([stream]);
        Box::pin(async move { result })
    }

    fn get_resource(
        &mut self,
        binding: Binding,
        _: StreamId,
    ) -> Result<ManagedResource<<Self::Storage as ComputeStorage>::Resource>, ServerError> {
        let memory = binding.memory.clone();
        Ok(ManagedResource::new(memory, self.resource(binding)?))
    }

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        count: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
        stream: StreamId,
    ) {
        if let Err(error) = self.run(&*kernel, count, arguments, mode) {
            self.errors.push(stream, error);
        }
    }

    fn flush(&mut self, stream: StreamId) -> Result<(), ServerError> {
        self.errors.take([stream])
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Ok(self.memory.memory_usage())
    }

    fn memory_cleanup(&mut self, _: StreamId) {
        self.memory.cleanup(true);
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(self.timestamps.start())
    }

    fn end_profile(&mut self, _: StreamId, token: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        self.timestamps.stop(token)
    }

    fn allocation_mode(&mut self, mode: MemoryAllocationMode, _: StreamId) {
        self.memory.mode(mode);
    }
}
