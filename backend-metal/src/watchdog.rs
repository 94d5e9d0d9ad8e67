//! The watchdog of macOS ends a command buffer that runs for some seconds while the display is on, and the run with it.
//!
//! Source: ml-explore/mlx#3267 for the variable; cubecl-wgpu 0.10 `runtime.rs` for the number of tasks of a command buffer.

/// Lets command buffers of a GPU run longer, where the driver knows the variable. Set by the user, it stays.
const RELAX: &str = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT";
/// Kernels of one command buffer: fewer make shorter ones.
const TASKS: &str = "CUBECL_WGPU_MAX_TASKS";

/// Prepares this process; to be called before the first device is opened. Only macOS has the watchdog.
///
/// # Safety
/// No other thread may read or write the environment meanwhile: call it first in `main`.
pub unsafe fn relax_watchdog() {
    if !cfg!(target_os = "macos") {
        return;
    }
    for (name, value) in [(RELAX, "1"), (TASKS, "16")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: the caller's promise.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
