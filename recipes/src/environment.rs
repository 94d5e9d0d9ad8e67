//! Environment variables that drivers read when they are loaded.

/// Wayland's folder for sockets.
const RUNTIME: &str = "XDG_RUNTIME_DIR";

/// Sets the environment of this process.
///
/// # Safety
/// No other thread may read or write the environment meanwhile, so call this first in `main`.
pub unsafe fn prepare() {
    // SAFETY: the caller guarantees that no other thread uses the environment.
    #[cfg(feature = "metal")]
    unsafe {
        burnish_metal::relax_watchdog();
    }
    // Vulkan's loader queries Wayland, which prints an error if this is not set, as on most servers.
    if cfg!(target_os = "linux") && std::env::var_os(RUNTIME).is_none() {
        // SAFETY: the caller guarantees that no other thread uses the environment.
        unsafe { std::env::set_var(RUNTIME, std::env::temp_dir()) };
    }
}
