//! Byte counts, and the memory of this process.

/// Formats a byte count.
pub fn gib(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 1e9 {
        format!("{:.2} GiB", bytes / (1u64 << 30) as f64)
    } else {
        format!("{:.0} MiB", bytes / (1u64 << 20) as f64)
    }
}

/// The peak resident memory of this process in bytes: `VmHWM` on Linux, `ru_maxrss` on macOS, `PeakWorkingSetSize` on Windows.
///
/// On Linux, `/proc/self/clear_refs` resets it.
pub fn peak_bytes() -> Option<u64> {
    if cfg!(target_os = "linux") { high_water_mark() } else { largest_resident() }
}

/// The resident memory of this process in bytes: `VmRSS` on Linux, `WorkingSetSize` on Windows.
pub fn resident_bytes() -> Option<u64> {
    if cfg!(target_os = "linux") { of_status("VmRSS:") } else { working_set() }
}

fn high_water_mark() -> Option<u64> {
    of_status("VmHWM:")
}

/// A figure of Linux's `/proc/self/status`.
fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// `ru_maxrss`: bytes on macOS, KiB on other systems.
#[cfg(unix)]
fn largest_resident() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let largest = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    Some(if cfg!(target_vendor = "apple") { largest } else { largest * 1024 })
}

/// `PeakWorkingSetSize`, in bytes.
#[cfg(windows)]
fn largest_resident() -> Option<u64> {
    Some(memory_counters()?.PeakWorkingSetSize as u64)
}

/// `WorkingSetSize`, in bytes.
#[cfg(windows)]
fn working_set() -> Option<u64> {
    Some(memory_counters()?.WorkingSetSize as u64)
}

#[cfg(not(windows))]
fn working_set() -> Option<u64> {
    None
}

#[cfg(windows)]
fn memory_counters() -> Option<windows_sys::Win32::System::ProcessStatus::PROCESS_MEMORY_COUNTERS> {
    use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
    use windows_sys::Win32::System::Threading::GetCurrentProcess;
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    // SAFETY: the pseudo handle of this process is always valid, and `counters` has the size that is passed.
    let answered = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, size) };
    (answered != 0).then_some(counters)
}

#[cfg(not(any(unix, windows)))]
fn largest_resident() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_formatted_in_the_larger_unit() {
        assert_eq!((gib(3 << 20), gib(5 << 29)), ("3 MiB".to_owned(), "2.50 GiB".to_owned()));
    }

    #[cfg(any(unix, windows))]
    #[test]
    fn the_peak_includes_an_allocation() {
        let _touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!((64 << 20..1 << 40).contains(&peak_bytes().unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn both_sources_report_an_allocation() {
        let _touched = std::hint::black_box(vec![1u8; 64 << 20]);
        // `ru_maxrss` also counts the process before `exec`.
        let now = resident_bytes().unwrap();
        let (one, other) = (high_water_mark().unwrap(), largest_resident().unwrap());
        // Threads add what they touch to the kernel's counts a few pages late.
        assert!(now >= 64 << 20 && now <= one + (1 << 20), "{now} and {one}");
        assert!(one >= 64 << 20 && other + (1 << 20) >= one && other < 1 << 40, "{one} and {other}");
    }
}
