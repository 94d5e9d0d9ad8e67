//! A runtime that executes the Metal code on the CPU.
//!
//! As on a Mac, cubecl's own Metal compiler emits MSL, and [`repair`](crate::repair) fixes it. Then clang compiles the text twice:
//! as C++ for OpenCL, which checks address spaces, and as C++20, which is executed. There each GPU thread is a fiber, SIMD-groups
//! have 32 lanes, and matrices have Apple's layout. Every access to memory is checked against its buffer and against the accesses
//! of other threads. `docs/metal.md` describes what is modelled and what can't be.

mod clang;
mod counters;
mod device;
mod error;
mod fault;
mod kernel;
mod properties;
mod server;
mod storage;
mod translate;

use cubecl_common::device::{Device, DeviceId};
use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;
use cubecl_core::ir::TargetProperties;
use cubecl_core::server::ComputeServer;
use cubecl_core::zspace::{Shape, Strides};

use self::kernel::{CompiledKernel, check};

pub use counters::{KernelCounters, KernelReport, take_most_bytes_in_use, take_reports};
pub use device::EmulatorDevice;
pub use error::EmulatorError;
pub use fault::{Fault, FaultKind};
pub use properties::{Compiler, device_properties};
pub use server::EmulatorServer;

/// burn on the emulator.
pub type MetalCpu = burn_cubecl::CubeBackend<EmulatorRuntime, f32, i32, u8>;

/// Executes emitted MSL on the CPU.
#[derive(Debug, Clone)]
pub struct EmulatorRuntime;

impl Runtime for EmulatorRuntime {
    type Compiler = Compiler;
    type Server = EmulatorServer;
    type Device = EmulatorDevice;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "emulator"
    }

    fn max_cube_count() -> (u32, u32, u32) {
        (65535, 65535, 65535)
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        let mut expected = 1;
        shape.iter().zip(strides.iter()).rev().all(|(size, stride)| {
            let fits = *stride == expected;
            expected *= *size;
            fits
        })
    }

    fn target_properties() -> TargetProperties {
        TargetProperties { mma: Default::default() }
    }

    fn enumerate_devices(_: u16, (): &<Self::Server as ComputeServer>::Info) -> Vec<DeviceId> {
        vec![EmulatorDevice::default().to_id()]
    }
}

impl burnish_kernels::KernelRuntime for EmulatorRuntime {
    const FUSED: bool = true;

    fn has_tensor_operations(device: &EmulatorDevice) -> bool {
        device.has_tensor_operations()
    }
}

/// The emulator with burn's own kernels only, as a training step would launch without those of Burnish.
#[derive(Debug, Clone)]
pub struct StockEmulatorRuntime;

/// burn's own operations on the emulator.
pub type StockMetalCpu = burn_cubecl::CubeBackend<StockEmulatorRuntime, f32, i32, u8>;

impl Runtime for StockEmulatorRuntime {
    type Compiler = Compiler;
    type Server = EmulatorServer;
    type Device = EmulatorDevice;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "emulator-stock"
    }

    burnish_kernels::runtime_from!(EmulatorRuntime);
}

impl burnish_kernels::KernelRuntime for StockEmulatorRuntime {
    const FUSED: bool = false;
}

/// Runs MSL that was not emitted by cubecl, on `count` threadgroups of `dim` threads. The text is linted, but not repaired.
///
/// # Errors
/// When the lint or clang refuse the text, or the kernel has a fault.
pub fn execute(
    source: &str,
    dim: [u32; 3],
    count: [u32; 3],
    buffers: &mut [&mut [u8]],
    device: EmulatorDevice,
) -> Result<KernelCounters, EmulatorError> {
    check(source)?;
    let kernel = CompiledKernel::new(source.to_owned(), dim, Vec::new())?;
    let spans: Vec<(*mut u8, usize)> = buffers.iter_mut().map(|buffer| (buffer.as_mut_ptr(), buffer.len())).collect();
    kernel.launch(count, &spans, device.order(), device != EmulatorDevice::Quick)
}
