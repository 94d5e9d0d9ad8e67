//! Finds GPUs without opening one.

/// Whether there is a GPU for [`crate::MetalRuntime`]; a driver that runs on the CPU, such as Mesa's lavapipe, does not count.
pub fn has_gpu() -> bool {
    static FOUND: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let backends = if cfg!(target_os = "macos") { wgpu::Backends::METAL } else { wgpu::Backends::VULKAN };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = cubecl_common::future::block_on(instance.enumerate_adapters(backends));
        adapters
            .iter()
            .any(|adapter| !matches!(adapter.get_info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::Other))
    });
    *FOUND
}
