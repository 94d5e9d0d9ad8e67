//! What drivers and the allocator read when the process begins.

/// Wayland's folder for sockets.
const RUNTIME: &str = "XDG_RUNTIME_DIR";

/// Bytes up to which glibc keeps freed memory for the next buffers.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BUFFER: libc::c_int = 16 << 20;

/// Sets the environment of this process, and how its allocator gives memory back.
///
/// # Safety
/// No other thread may read or write the environment meanwhile, so call this first in `main`.
pub unsafe fn prepare() {
    // SAFETY: the caller guarantees that no other thread uses the environment.
    #[cfg(feature = "metal")]
    unsafe {
        burnish_metal::relax_watchdog();
    }
    // A compromise. By default glibc's threshold grows with what is freed, up to 32 MiB, and freed buffers stay in the process: 60 of 724
    // MiB in training SmolLM2, and 17 of 614 with this one. Where none stay, each new buffer is cleared page by page: a fifth of a step.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes two numbers of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BUFFER);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BUFFER);
    }
    // Vulkan's loader queries Wayland, which prints an error if this is not set, as on most servers.
    if cfg!(target_os = "linux") && std::env::var_os(RUNTIME).is_none() {
        // SAFETY: the caller guarantees that no other thread uses the environment.
        unsafe { std::env::set_var(RUNTIME, std::env::temp_dir()) };
    }
}
