//! How much of the unified memory a run may use.

use serde::Serialize;

const GIB: u64 = 1 << 30;

/// The most memory that Metal recommends a GPU to use, in bytes.
///
/// macOS allows two thirds of small memories and three quarters of large ones: llama.cpp prints 10922 MiB of 16 GiB
/// (llama-cpp-python#687) and 48 GiB of 64 (llama.cpp#1870). macOS 26 has allowed more, 107.5 of 128 GiB (antirez/ds4#893);
/// this is the lower rule. A value of `iogpu.wired_limit_mb` other than 0 overrides it.
pub fn working_set(memory: u64, wired_limit_mb: Option<u64>) -> u64 {
    match wired_limit_mb.filter(|limit| *limit > 0) {
        Some(limit) => (limit << 20).min(memory),
        None if memory <= 36 * GIB => memory / 3 * 2,
        None => memory / 4 * 3,
    }
}

/// The memory that a run can plan with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryBudget {
    /// All memory, in bytes.
    pub memory: u64,
    /// The most that Metal recommends.
    pub working_set: u64,
    /// Left for what Metal and the runtime's pools use besides tensors.
    pub reserve: u64,
}

impl MemoryBudget {
    /// The budget of a machine.
    pub fn new(memory: u64, wired_limit_mb: Option<u64>) -> Self {
        let working_set = working_set(memory, wired_limit_mb);
        // Pools round sizes up. Fragmentation costs a tenth at worst; small machines need half a gibibyte.
        let reserve = (working_set / 10).max(GIB / 2).min(working_set);
        Self { memory, working_set, reserve }
    }

    /// Bytes that all tensors together may use.
    pub fn available(&self) -> u64 {
        self.working_set - self.reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_matches_reported_values() {
        assert_eq!(working_set(16 * GIB, None) >> 20, 10922);
        assert_eq!(working_set(64 * GIB, Some(0)), 48 * GIB);
        assert_eq!(working_set(16 * GIB, Some(12_000)), 12_000 << 20);
        assert_eq!(working_set(16 * GIB, Some(99_000)), 16 * GIB);
    }

    #[test]
    fn a_reserve_is_kept() {
        let budget = MemoryBudget::new(8 * GIB, None);
        assert_eq!(budget.reserve, budget.working_set / 10);
        assert!(budget.available() < budget.working_set);
        assert_eq!(MemoryBudget::new(0, None).available(), 0);
    }
}
