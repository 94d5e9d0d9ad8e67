//! What there is to know about this machine: a report to be pasted into an issue, without paths and names.

mod backends;
mod markdown;
mod probe;
pub mod repairs;
mod strain;

use serde::Serialize;

pub use backends::{BackendFacts, DeviceFacts};
pub use probe::{device_and_driver, report};
pub use repairs::RepairFacts;
pub use strain::Strain;

/// The report of `burnish env`. What the system does not tell is `None`, which is printed as `unknown`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemReport {
    /// Version of this program.
    pub burnish: &'static str,
    /// Version of burn.
    pub burn: &'static str,
    /// Version of cubecl.
    pub cubecl: &'static str,
    /// The operating system and its version.
    pub system: Option<String>,
    /// The processor's architecture.
    pub architecture: String,
    /// The processor.
    pub chip: Option<String>,
    /// Cores of the processor.
    pub cpu_cores: Option<usize>,
    /// Threads that this process may use.
    pub threads: Option<usize>,
    /// Cores of the GPU, where it is part of the chip.
    pub gpu_cores: Option<u32>,
    /// All memory.
    pub memory_bytes: Option<u64>,
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// What only a Mac has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacFacts>,
    /// The backends of this build.
    pub backends: Vec<BackendFacts>,
    /// The repairs of Metal code that the kernels of a training step met, if that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairs: Option<RepairsOfAStep>,
    /// The repairs that `BURNISH_SKIP_REPAIR` switches off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped_repairs: Vec<&'static str>,
}

/// What a training step met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairsOfAStep {
    /// The backend.
    pub backend: &'static str,
    /// The rules.
    pub rules: Vec<RepairFacts>,
    /// Why the step failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What only a Mac has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MacFacts {
    /// The most memory that Metal recommends its GPU to use.
    pub working_set_bytes: Option<u64>,
    /// `iogpu.wired_limit_mb`; 0 leaves that limit to the system.
    pub wired_limit_mb: Option<u64>,
    /// Whether the low-power mode is on.
    pub low_power_mode: Option<bool>,
    /// Whether the GPU computes bf16.
    pub bf16: Option<bool>,
}
