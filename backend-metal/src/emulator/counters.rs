//! What kernels did, counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Counts of one kernel, over all its launches. Bytes are those of the kernel's accesses; unique bytes count a byte once a
/// launch, which is what a cache of endless size would move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[repr(C)]
pub struct KernelCounters {
    /// Read from device memory.
    pub bytes_read: u64,
    /// Written to device memory.
    pub bytes_written: u64,
    /// Read from device memory, each byte once a launch.
    pub unique_bytes_read: u64,
    /// Written to device memory, each byte once a launch.
    pub unique_bytes_written: u64,
    /// Read from threadgroup memory.
    pub threadgroup_bytes_read: u64,
    /// Written to threadgroup memory.
    pub threadgroup_bytes_written: u64,
    /// Operations on floats, without those of matrices.
    pub arithmetic: u64,
    /// Products of 8×8 matrices, added to a third: 1024 operations each.
    pub matrix_operations: u64,
    /// Barriers, once a threadgroup.
    pub barriers: u64,
    /// Functions of a SIMD-group, once a group.
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

/// A kernel with its launches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KernelReport {
    /// How often it ran.
    pub launches: u64,
    /// What all launches did.
    pub counters: KernelCounters,
    /// Rules of repair that its text needed.
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

/// What every kernel of this process did since the last call, by entry point.
pub fn take_reports() -> BTreeMap<String, KernelReport> {
    std::mem::take(&mut reports())
}
