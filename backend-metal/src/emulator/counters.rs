//! Counts of what kernels do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Counts of one kernel, over all its launches. Bytes are those of all accesses; unique bytes count a byte once in each launch, as
/// an infinite cache would move it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[repr(C)]
pub struct KernelCounters {
    /// Read from device memory.
    pub bytes_read: u64,
    /// Written to device memory.
    pub bytes_written: u64,
    /// Read from device memory, each byte once in a launch.
    pub unique_bytes_read: u64,
    /// Written to device memory, each byte once in a launch.
    pub unique_bytes_written: u64,
    /// Read from threadgroup memory.
    pub threadgroup_bytes_read: u64,
    /// Written to threadgroup memory.
    pub threadgroup_bytes_written: u64,
    /// Operations on floats, except those on matrices.
    pub arithmetic: u64,
    /// Products of 8×8 matrices, added to a third: 1024 operations each.
    pub matrix_operations: u64,
    /// Barriers, counted once for each threadgroup.
    pub barriers: u64,
    /// SIMD-group functions, counted once for each group.
    pub simd_operations: u64,
}

impl KernelCounters {
    fn add(&mut self, other: &Self) {
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.unique_bytes_read += other.unique_bytes_read;
        self.unique_bytes_written += other.unique_bytes_written;
        self.threadgroup_bytes_read += other.threadgroup_bytes_read;
        self.threadgroup_bytes_written += other.threadgroup_bytes_written;
        self.arithmetic += other.arithmetic;
        self.matrix_operations += other.matrix_operations;
        self.barriers += other.barriers;
        self.simd_operations += other.simd_operations;
    }
}

/// The launches of a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KernelReport {
    /// Number of launches.
    pub launches: u64,
    /// Counts of all launches.
    pub counters: KernelCounters,
    /// Repair rules that changed its text.
    pub repairs: Vec<&'static str>,
}

static REPORTS: Mutex<BTreeMap<String, KernelReport>> = Mutex::new(BTreeMap::new());

fn reports() -> MutexGuard<'static, BTreeMap<String, KernelReport>> {
    REPORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn count(kernel: &str, repairs: &[&'static str], counters: &KernelCounters) {
    let mut reports = reports();
    let report = reports.entry(kernel.to_owned()).or_default();
    report.launches += 1;
    report.counters.add(counters);
    if report.repairs.is_empty() {
        report.repairs = repairs.to_vec();
    }
}

/// The reports of every kernel that this process launched since the last call, by entry point.
pub fn take_reports() -> BTreeMap<String, KernelReport> {
    std::mem::take(&mut reports())
}

static MOST_BYTES_IN_USE: AtomicU64 = AtomicU64::new(0);

pub(super) fn hold(bytes: u64) {
    MOST_BYTES_IN_USE.fetch_max(bytes, Ordering::Relaxed);
}

/// The most bytes that the live tensors of one emulated device took at once since the last call, 0 if nothing was allocated: exact,
/// since the device looks at each allocation.
pub fn take_most_bytes_in_use() -> u64 {
    MOST_BYTES_IN_USE.swap(0, Ordering::Relaxed)
}
