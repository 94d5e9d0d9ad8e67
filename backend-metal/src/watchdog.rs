//! The watchdog of macOS aborts a command buffer that runs for some seconds while the display is on, and so ends the run.
//!
//! Source: ml-explore/mlx#3267 for the variable; cubecl-wgpu 0.10 `runtime.rs` for the tasks of a command buffer.

/// Lets command buffers run longer, where the driver knows the variable. A value set by the user stays.
const RELAX: &str = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT";
/// Kernels of one command buffer: with fewer, it is shorter.
const TASKS: &str = "CUBECL_WGPU_MAX_TASKS";

/// Prepares this process; the caller must do so before it opens the first device. Only macOS has the watchdog.
///
/// # Safety
/// No other thread may read or write the environment meanwhile, so it must be the first call of `main`.
pub unsafe fn relax_watchdog() {
    if !cfg!(target_os = "macos") {
        return;
    }
    for (name, value) in [(RELAX, "1"), (TASKS, "16")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: the caller ensures that no other thread uses the environment.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
