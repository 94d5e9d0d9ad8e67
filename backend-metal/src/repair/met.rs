//! The rules that kernels met, for reports, and the rules that are skipped, for bug reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The environment variable with the names of rules to skip, separated by commas.
pub const SKIP: &str = "BURNISH_SKIP_REPAIR";

/// The kernels of this process whose text each rule changed.
static MET: Mutex<BTreeMap<&'static str, BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// Notes the rules that changed a kernel's text.
pub fn note(kernel: &str, applied: &[&'static str]) {
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    for rule in applied {
        met.entry(rule).or_default().insert(kernel.to_owned());
    }
}

/// The rules that kernels of this process met so far, with the number of kernels.
pub fn met() -> BTreeMap<&'static str, usize> {
    let met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    met.iter().map(|(rule, kernels)| (*rule, kernels.len())).collect()
}

/// The names in [`SKIP`], as they were when the first kernel was compiled or this was first called.
pub fn asked_to_skip() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| names(&std::env::var(SKIP).unwrap_or_default()))
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_counts_once_for_a_rule() {
        for kernel in ["a", "b", "a"] {
            note(kernel, &["test_rule"]);
        }
        assert_eq!(met()["test_rule"], 2);
    }

    #[test]
    fn names_are_separated_by_commas() {
        assert_eq!(names(" sync_cube,,printf ,"), ["sync_cube", "printf"]);
        assert!(names("").is_empty());
    }
}
