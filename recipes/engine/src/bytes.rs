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

/// Peak memory of this process in bytes, if the system reports it. On Linux, `/proc/self/clear_refs` resets it.
pub fn peak_bytes() -> Option<u64> {
    if cfg!(target_os = "linux") { high_water_mark() } else { largest_resident() }
}

fn high_water_mark() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
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

#[cfg(not(unix))]
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

    #[cfg(target_os = "linux")]
    #[test]
    fn both_sources_report_an_allocation() {
        let _touched = std::hint::black_box(vec![1u8; 64 << 20]);
        // `ru_maxrss` also counts the process before `exec`.
        let (one, other) = (high_water_mark().unwrap(), largest_resident().unwrap());
        assert!(one >= 64 << 20 && other + (1 << 20) >= one && other < 1 << 40, "{one} and {other}");
    }
}
