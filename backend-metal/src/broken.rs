//! Kernels that a test keeps from running.

/// Whether a test asked that kernels of this name are never launched: `BURNISH_BREAK=launch:<part of the name>`. Never in a build
/// without the feature `breakable`.
pub(crate) fn is_never_launched(kernel: &str) -> bool {
    cfg!(feature = "breakable")
        && std::env::var("BURNISH_BREAK").is_ok_and(|parts| {
            parts.split(',').filter_map(|part| part.strip_prefix("launch:")).any(|part| kernel.contains(part))
        })
}
