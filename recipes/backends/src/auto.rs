//! Which backend `auto` is.

use std::sync::OnceLock;

/// A backend and why it is that one, found out once.
pub(super) fn choose() -> (&'static str, &'static str) {
    static CHOICE: OnceLock<(&str, &str)> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        if cfg!(all(feature = "metal", target_os = "macos", target_arch = "aarch64")) {
            ("metal", "auto: Apple's GPU; --backend cpu runs everywhere")
        } else if has_nvidia() {
            ("cuda", "auto: an NVIDIA GPU; --backend cpu runs everywhere")
        } else if has_vulkan() {
            ("vulkan", "auto: a GPU with Vulkan; --backend cpu runs everywhere")
        } else {
            ("cpu", "auto: there is no GPU that it knows")
        }
    })
}

/// Whether NVIDIA's kernel driver runs. Asking CUDA itself would fail loudly where it is not.
fn has_nvidia() -> bool {
    cfg!(all(feature = "cuda", target_os = "linux")) && std::path::Path::new("/dev/nvidiactl").exists()
}

/// Whether Vulkan has a device that is no CPU posing as one.
fn has_vulkan() -> bool {
    #[cfg(all(feature = "metal", not(target_os = "macos")))]
    return burnish_metal::has_gpu();
    #[cfg(not(all(feature = "metal", not(target_os = "macos"))))]
    false
}
