//! What the process has to say to drivers before the first of them is loaded.

/// Where Wayland looks for displays.
const RUNTIME: &str = "XDG_RUNTIME_DIR";

/// Prepares the environment of this process.
///
/// # Safety
/// No other thread may read or write the environment meanwhile: call it first in `main`.
pub unsafe fn prepare() {
    // SAFETY: the caller's promise.
    #[cfg(feature = "metal")]
    unsafe {
        burnish_metal::relax_watchdog();
    }
    // Vulkan's loader asks Wayland for displays, which prints an error of its own where this is not set, as on most servers.
    if cfg!(target_os = "linux") && std::env::var_os(RUNTIME).is_none() {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var(RUNTIME, std::env::temp_dir()) };
    }
}
