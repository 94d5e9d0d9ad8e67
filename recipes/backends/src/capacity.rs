//! The memory available to a backend.

/// Memory available to tensors in bytes, if the system reports it.
pub fn available(backend: &str) -> Option<u64> {
    match backend {
        #[cfg(feature = "metal")]
        "metal" => burnish_metal::chip::machine().map(|machine| machine.budget.available()),
        "cpu" | "candle" | "ndarray" | "tch" | "emulator" | "emulator-stock" => of_machine(),
        _ => None,
    }
}

/// The total memory of the machine in bytes.
pub fn of_machine() -> Option<u64> {
    #[cfg(all(feature = "metal", target_os = "macos"))]
    return burnish_metal::chip::machine().map(|machine| machine.budget.memory);
    #[cfg(not(all(feature = "metal", target_os = "macos")))]
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

#[cfg(not(all(feature = "metal", target_os = "macos")))]
fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}
