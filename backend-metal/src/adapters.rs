//! Finds GPUs without opening one.

use std::sync::LazyLock;

/// A device that wgpu finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, as the driver gives it.
    pub name: String,
    /// The driver with its version; empty where the system does not tell, as on macOS.
    pub driver: String,
    /// Whether it is a GPU, and not a driver that runs on the CPU, such as Mesa's lavapipe.
    pub is_gpu: bool,
}

/// The devices that [`crate::MetalRuntime`] could run on; determined once.
pub fn adapters() -> &'static [Adapter] {
    static FOUND: LazyLock<Vec<Adapter>> = LazyLock::new(|| {
        let backends = if cfg!(target_os = "macos") { wgpu::Backends::METAL } else { wgpu::Backends::VULKAN };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = cubecl_common::future::block_on(instance.enumerate_adapters(backends));
        adapters.iter().map(|adapter| of(adapter.get_info())).collect()
    });
    &FOUND
}

fn of(info: wgpu::AdapterInfo) -> Adapter {
    let is_gpu = !matches!(info.device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::Other);
    let driver = format!("{} {}", info.driver.trim(), info.driver_info.trim()).trim().to_owned();
    Adapter { name: info.name, driver, is_gpu }
}

/// Whether there is a GPU for [`crate::MetalRuntime`]; a driver that runs on the CPU does not count.
pub fn has_gpu() -> bool {
    adapters().iter().any(|adapter| adapter.is_gpu)
}
