//! The backends of this build, and what they find on this machine.

use std::path::Path;

use burnish_bench::machine::nvidia_gpus;
use burnish_models::FloatType;
use serde::Serialize;

/// A backend of this build.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendFacts {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether this machine has a device for it.
    pub found: Option<bool>,
    /// The devices.
    pub devices: Vec<DeviceFacts>,
    /// Whether it opened and computed a product, if that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub works: Option<bool>,
    /// The dtypes that it computes in, or why it does not work, if that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

/// A device of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceFacts {
    /// Its name, as the driver gives it.
    pub name: String,
    /// The driver with its version, where the system tells.
    pub driver: Option<String>,
}

/// Every backend of this build; `tested` opens them.
pub(super) fn all(tested: bool) -> Vec<BackendFacts> {
    let facts = |name| {
        let (found, devices) = devices(name);
        let (works, test) = if tested { try_out(name) } else { (None, None) };
        BackendFacts { name, found, devices, works, test }
    };
    burnish_backends::built_in().map(facts).collect()
}

/// Whether there is a device, and its names.
pub(super) fn devices(backend: &str) -> (Option<bool>, Vec<DeviceFacts>) {
    match backend {
        "cpu" | "candle" | "ndarray" => (Some(true), Vec::new()),
        "metal" | "vulkan" | "wgpu" | burnish_backends::WGPU_STOCK => {
            let adapters = adapters();
            (adapters.as_ref().map(|found| !found.is_empty()), adapters.unwrap_or_default())
        }
        "cuda" => {
            let gpus: Vec<DeviceFacts> = nvidia_gpus().iter().map(|line| of_nvidia(line)).collect();
            let is_loaded = cfg!(target_os = "linux") && Path::new("/dev/nvidiactl").exists();
            (Some(!gpus.is_empty() || is_loaded), gpus)
        }
        _ => (None, Vec::new()),
    }
}

/// A line of `nvidia-smi`: name and driver.
fn of_nvidia(line: &str) -> DeviceFacts {
    let (name, driver) = line.split_once(',').unwrap_or((line, ""));
    let driver = Some(driver.trim()).filter(|driver| !driver.is_empty());
    DeviceFacts { name: name.trim().to_owned(), driver: driver.map(str::to_owned) }
}

/// The devices that wgpu finds; `None` if this build can't tell.
#[allow(clippy::unnecessary_wraps, reason = "other builds can't tell")]
fn adapters() -> Option<Vec<DeviceFacts>> {
    #[cfg(feature = "metal")]
    {
        let facts = |adapter: &burnish_metal::Adapter| DeviceFacts {
            name: if adapter.is_gpu { adapter.name.clone() } else { format!("{} (software)", adapter.name) },
            driver: Some(adapter.driver.clone()).filter(|driver| !driver.is_empty()),
        };
        Some(burnish_metal::adapters().iter().map(facts).collect())
    }
    #[cfg(not(feature = "metal"))]
    None
}

/// Opens a backend: whether that works, and the dtypes that it computes in, or the reason.
fn try_out(name: &str) -> (Option<bool>, Option<String>) {
    match burnish_backends::open(name) {
        Ok(device) => {
            let dtypes = FloatType::ALL.into_iter().filter(|dtype| device.computes_in(*dtype));
            (Some(true), Some(format!("computes in {}", dtypes.map(FloatType::name).collect::<Vec<_>>().join(", "))))
        }
        Err(error) => (Some(false), Some(format!("{error:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nvidia_have_name_and_driver() {
        let gpu = of_nvidia("NVIDIA H100 80GB HBM3, 580.159.04");
        assert_eq!((gpu.name.as_str(), gpu.driver.as_deref()), ("NVIDIA H100 80GB HBM3", Some("580.159.04")));
        assert_eq!(of_nvidia("NVIDIA H100").driver, None);
    }

    #[test]
    fn a_backend_that_opens_tells_its_dtypes_and_one_that_does_not_tells_why() {
        let (works, test) = try_out("cpu");
        assert!(works == Some(true) && test.unwrap().contains("f32"));
        let (works, test) = try_out("no-such-backend");
        assert!(works == Some(false) && test.unwrap().contains("no backend"));
    }
}
