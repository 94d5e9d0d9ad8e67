//! The memory that a run may use.

use anyhow::Result;
use serde::Serialize;

/// The memory that a run may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// All memory, in bytes.
    pub memory: u64,
    /// What the run may use of it.
    pub available: u64,
    /// Why it is less than all.
    pub why: String,
}

const GIB: u64 = 1 << 30;

/// The divisor of a memory that is left to other things, where no better rule is known.
const RESERVE: u64 = 10;

impl Budget {
    /// That of this machine, where the backend or the system tells.
    pub fn of_this_machine(backend: &str) -> Option<Self> {
        if let Some(available) = burnish_backends::capacity::available(backend) {
            let memory = burnish_backends::capacity::of_machine().unwrap_or(available);
            let why = if available < memory { "what Metal allows, less a reserve for its pools" } else { "all memory" };
            return Some(Self { memory, available, why: why.to_owned() });
        }
        let memory = burnish_backends::open(backend).ok()?.memory()?.total?;
        Some(Self { memory, available: memory, why: "all memory of the device".to_owned() })
    }

    /// That of a machine with so many GiB.
    ///
    /// # Errors
    /// When this build does not know how much of it Metal allows.
    pub fn of_gib(backend: &str, gib: u64) -> Result<Self> {
        let memory = gib.saturating_mul(GIB);
        if backend == "metal" {
            return of_mac(memory);
        }
        let why = "all but a tenth, which is left to other programs".to_owned();
        Ok(Self { memory, available: memory - memory / RESERVE, why })
    }
}

#[cfg(feature = "metal")]
#[allow(clippy::unnecessary_wraps, reason = "other builds return an error")]
fn of_mac(memory: u64) -> Result<Budget> {
    let budget = burnish_metal::chip::MemoryBudget::new(memory, None);
    let [working_set, reserve] = [budget.working_set, budget.reserve].map(burnish_engine::gib);
    let why = format!("{working_set} that Metal allows, less {reserve} for its pools");
    Ok(Budget { memory, available: budget.available(), why })
}

#[cfg(not(feature = "metal"))]
fn of_mac(_memory: u64) -> Result<Budget> {
    Err(super::chip::no_chips())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept() {
        let budget = Budget::of_gib("cuda", 80).unwrap();
        assert_eq!((budget.memory >> 30, budget.available >> 30), (80, 72));
        let this = Budget::of_this_machine("cpu");
        assert_eq!(this.map(|budget| budget.available), burnish_backends::capacity::of_machine());
    }

    #[cfg(feature = "metal")]
    #[test]
    fn a_mac_leaves_a_third_to_the_system() {
        let budget = Budget::of_gib("metal", 16).unwrap();
        // Two thirds of 16 GiB, less a tenth of them.
        assert_eq!(budget.available >> 20, 9830);
    }
}
