//! A runtime that executes the Metal code on the CPU.
//!
//! Kernels go the way that they go on a Mac: cubecl's own Metal compiler emits MSL, [`repair`](crate::repair) mends it. Then
//! clang compiles the text twice, once as C++ for OpenCL, which checks address spaces, once as C++20, whose code runs: a
//! fiber a GPU thread, SIMD-groups of 32 lanes, Apple's layout of matrices. Every access to memory is checked against its
//! buffer and against the accesses of other threads. `docs/metal.md` says what is modelled and what can't be.

mod clang;
mod counters;
mod fault;
mod kernel;
mod properties;
mod server;
mod storage;
mod translate;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cubecl_common::device::{Device, DeviceId};
use cubecl_core::Runtime;
use cubecl_core::client::ComputeClient;
use cubecl_core::ir::TargetProperties;
use cubecl_core::server::ComputeServer;
use cubecl_core::zspace::{Shape, Strides};
use cubecl_runtime::compiler::CompilationError;

use self::kernel::CompiledKernel;
use crate::lint::lint;
use crate::msl::Signature;

pub use counters::{KernelCounters, KernelReport, take_reports};
pub use fault::{Fault, FaultKind};
pub use properties::{Compiler, device_properties};
pub use server::EmulatorServer;

/// burn on the emulator.
pub type MetalCpu = burn_cubecl::CubeBackend<EmulatorRuntime, f32, i32, u8>;

/// Executes emitted MSL on the CPU.
#[derive(Debug, Clone)]
pub struct EmulatorRuntime;

/// An emulated GPU. Devices differ in how strictly they look; `BURNISH_EMULATOR_DEVICE` names the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmulatorDevice {
    /// Repairs the text; finds races; threads run as they are numbered.
    Checked,
    /// As [`Self::Checked`], and threads run from the last to the first.
    Reversed,
    /// As [`Self::Checked`], and threads run in an order that changes at each step.
    Shuffled,
    /// Finds no races: faster.
    Quick,
    /// As [`Self::Checked`], but the text stays as cubecl emits it.
    Unrepaired,
}

/// In which order threads of a threadgroup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThreadOrder {
    Forward,
    Backward,
    Shuffled,
}

impl ThreadOrder {
    fn number(self) -> u32 {
        match self {
            Self::Forward => 0,
            Self::Backward => 1,
            Self::Shuffled => 20_240_817,
        }
    }
}

impl EmulatorDevice {
    const ALL: [Self; 5] = [Self::Checked, Self::Reversed, Self::Shuffled, Self::Quick, Self::Unrepaired];

    fn order(self) -> ThreadOrder {
        match self {
            Self::Reversed => ThreadOrder::Backward,
            Self::Shuffled => ThreadOrder::Shuffled,
            _ => ThreadOrder::Forward,
        }
    }
}

impl Default for EmulatorDevice {
    fn default() -> Self {
        static NAMED: OnceLock<EmulatorDevice> = OnceLock::new();
        *NAMED.get_or_init(|| match std::env::var("BURNISH_EMULATOR_DEVICE").as_deref() {
            Ok("reversed") => Self::Reversed,
            Ok("shuffled") => Self::Shuffled,
            Ok("quick") => Self::Quick,
            Ok("unrepaired") => Self::Unrepaired,
            _ => Self::Checked,
        })
    }
}

impl Device for EmulatorDevice {
    fn from_id(id: DeviceId) -> Self {
        Self::ALL.get(usize::from(id.index_id)).copied().unwrap_or_default()
    }

    fn to_id(&self) -> DeviceId {
        let index = Self::ALL.iter().position(|device| device == self).unwrap_or_default();
        DeviceId { type_id: 0, index_id: index as u16 }
    }
}

impl burn_backend::DeviceOps for EmulatorDevice {}

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
}

/// The emulator with burn's own kernels only: what a training step would launch without those of Burnish.
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

/// Runs MSL that did not come from cubecl: `count` threadgroups of `dim` threads over some buffers. The text is linted, but
/// stays as it is.
///
/// # Errors
/// What the lint or clang say of the text, or what the kernel does wrong.
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

/// Lints a text.
fn check(source: &str) -> Result<(), EmulatorError> {
    let findings = lint(source);
    if findings.is_empty() {
        return Ok(());
    }
    let kernel = Signature::of(source).map_or_else(|| "a kernel".to_owned(), |signature| signature.name);
    Err(EmulatorError::Lint { kernel, findings: findings.iter().map(ToString::to_string).collect() })
}

/// What can go wrong in the emulator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmulatorError {
    /// There is no clang, or an old one only.
    #[error(
        "the emulator needs clang 16 or later{}: `apt-get install clang-19` on Debian and Ubuntu, `xcode-select --install` on macOS; \
         BURNISH_CLANG names another",
        too_old.map_or_else(String::new, |version| format!(", and found {version}"))
    )]
    NoClang {
        /// The version that was found instead.
        too_old: Option<u32>,
    },
    /// A file of the emulator's cache can't be written or read.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's complaint.
        reason: String,
    },
    /// cubecl could not emit MSL.
    #[error("{kernel}: {reason}")]
    Emit {
        /// The kernel.
        kernel: String,
        /// cubecl's complaint.
        reason: String,
    },
    /// The text has no function marked `[[kernel]]`.
    #[error("the MSL has no kernel")]
    NoEntryPoint,
    /// clang refuses the text.
    #[error("{kernel}: the MSL does not compile:\n{said}")]
    Compile {
        /// The kernel.
        kernel: String,
        /// clang's complaint.
        said: String,
    },
    /// The lint found something that clang accepts and Metal does not.
    #[error("{kernel}: {}", findings.join("; "))]
    Lint {
        /// The kernel.
        kernel: String,
        /// A sentence each.
        findings: Vec<String>,
    },
    /// A launch with too few or too many buffers.
    #[error("{kernel} wants {wanted} buffers and got {given}")]
    Buffers {
        /// The kernel.
        kernel: String,
        /// What its signature says.
        wanted: usize,
        /// What the launch has.
        given: usize,
    },
    /// The kernel did something that no kernel may.
    #[error("{0}")]
    Fault(Box<Fault>),
}

impl EmulatorError {
    fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason: error.to_string() }
    }

    fn load(path: &Path, error: &libloading::Error) -> Self {
        Self::Io { path: path.to_owned(), reason: error.to_string() }
    }

    fn emit(kernel: &str, error: &CompilationError) -> Self {
        Self::Emit { kernel: kernel.to_owned(), reason: error.to_string() }
    }
}
