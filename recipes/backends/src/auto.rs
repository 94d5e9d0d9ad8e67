//! Chooses the backend for `auto`.

use std::sync::OnceLock;

/// The backend, and the reason for it; determined once.
pub(super) fn choose() -> (&'static str, &'static str) {
    static CHOICE: OnceLock<(&str, &str)> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        if cfg!(all(feature = "metal", target_os = "macos", target_arch = "aarch64")) {
            ("metal", "auto: Apple GPU found; --backend cpu runs everywhere")
        } else if has_nvidia() {
            ("cuda", "auto: NVIDIA GPU found; --backend cpu runs everywhere")
        } else if has_vulkan() {
            ("vulkan", "auto: GPU with Vulkan found; --backend cpu runs everywhere")
        } else {
            ("cpu", "auto: no supported GPU found")
        }
    })
}

/// Whether NVIDIA's kernel driver is loaded. Without it, asking CUDA itself would print errors.
fn has_nvidia() -> bool {
    cfg!(all(feature = "cuda", target_os = "linux")) && std::path::Path::new("/dev/nvidiactl").exists()
}

/// Whether Vulkan has a real GPU, not only a software device.
fn has_vulkan() -> bool {
    #[cfg(all(feature = "metal", not(target_os = "macos")))]
    return burnish_metal::has_gpu();
    #[cfg(not(all(feature = "metal", not(target_os = "macos"))))]
    false
}
