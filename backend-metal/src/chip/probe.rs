//! Detects the chip of this machine.

use std::process::Command;

use serde::Serialize;

use super::memory::MemoryBudget;
use super::table::{Chip, chip};

/// What is known about this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name, as macOS gives it.
    pub name: String,
    /// GPU cores, where known.
    pub gpu_cores: Option<u32>,
    /// The row of the table, where there is one.
    pub chip: Option<&'static Chip>,
    /// `iogpu.wired_limit_mb`, where it can be read; 0 leaves the limit of the working set to the system.
    pub wired_limit_mb: Option<u64>,
    /// The memory that a run can plan with.
    pub budget: MemoryBudget,
}

/// Queries macOS; `None` on other systems, or where a query fails.
pub fn machine() -> Option<Machine> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let answer = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysctl = |key: &str| answer("/usr/sbin/sysctl", &["-n", key]);
    let cores = answer("/usr/sbin/ioreg", &["-rc", "AGXAccelerator", "-d", "1"]);
    of(
        &sysctl("machdep.cpu.brand_string")?,
        &sysctl("hw.memsize")?,
        sysctl("iogpu.wired_limit_mb").as_deref(),
        cores.as_deref(),
    )
}

fn of(name: &str, memory: &str, wired_limit: Option<&str>, accelerator: Option<&str>) -> Option<Machine> {
    let gpu_cores = accelerator.and_then(gpu_cores);
    let wired_limit_mb = wired_limit.and_then(|limit| limit.trim().parse().ok());
    Some(Machine {
        name: name.trim().to_owned(),
        gpu_cores,
        chip: chip(name, gpu_cores),
        wired_limit_mb,
        budget: MemoryBudget::new(memory.trim().parse().ok()?, wired_limit_mb),
    })
}

/// From the lines of `ioreg`: `"gpu-core-count" = 10`.
fn gpu_cores(accelerator: &str) -> Option<u32> {
    let line = accelerator.lines().find(|line| line.contains("\"gpu-core-count\""))?;
    line.rsplit('=').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_macos_are_read() {
        let ioreg = "+-o AGXAcceleratorG13X  <class AGXAcceleratorG13X>\n    {\n      \"model\" = \"Apple M1 Pro\"\n      \
                     \"gpu-core-count\" = 14\n    }\n";
        let machine = of("Apple M1 Pro\n", "17179869184\n", Some("0\n"), Some(ioreg)).unwrap();
        assert_eq!((machine.name.as_str(), machine.gpu_cores), ("Apple M1 Pro", Some(14)));
        assert_eq!(machine.chip.unwrap().gpu_cores, 14);
        assert_eq!((machine.budget.working_set >> 20, machine.wired_limit_mb), (10922, Some(0)));
        let unknown = of("Apple M9 Giga", "68719476736", None, None).unwrap();
        assert_eq!((unknown.chip, unknown.gpu_cores, unknown.wired_limit_mb), (None, None, None));
        assert!(of("Apple M1", "much", None, None).is_none());
    }
}
