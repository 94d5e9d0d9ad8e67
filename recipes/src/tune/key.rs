//! What measured times depend on.

use serde::{Deserialize, Serialize};

use crate::system;

/// A device with its driver, and the program. Dtypes are part of the classes of products.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuningKey {
    /// Name of the backend.
    pub backend: String,
    /// Name of the device.
    pub device: String,
    /// The driver and its version; on macOS, the version of the system.
    pub driver: String,
    /// Version of this program.
    pub program: String,
}

impl TuningKey {
    /// That of a backend's device on this machine.
    pub fn of(backend: &str) -> Self {
        let (device, driver) = system::device_and_driver(backend);
        Self { backend: backend.to_owned(), device, driver, program: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Whether the device runs kernels on a GPU, so that times mean something.
    pub fn is_gpu(&self) -> bool {
        !self.device.is_empty() && !self.device.ends_with("(software)")
    }
}

impl std::fmt::Display for TuningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { backend, device, driver, program } = self;
        let device = if device.is_empty() { "an unknown device" } else { device };
        write!(f, "`{backend}` on {device}")?;
        if !driver.is_empty() {
            write!(f, ", {driver}")?;
        }
        write!(f, ", burnish {program}")
    }
}
