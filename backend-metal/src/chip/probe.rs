//! Detects the chip of this machine.

use std::process::Command;
use std::sync::LazyLock;

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
    let sysctl = |key: &str| answer("/usr/sbin/sysctl", &["-n", key]);
    let cores = answer("/usr/sbin/ioreg", &["-rc", "AGXAccelerator", "-d", "1"]);
    of(
        &sysctl("machdep.cpu.brand_string")?,
        &sysctl("hw.memsize")?,
        sysctl("iogpu.wired_limit_mb").as_deref(),
        cores.as_deref(),
    )
}

/// What a program prints; `None` if it fails.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this machine may have matrix units that Metal's tensor operations use: an M5 or later, with macOS 26.2 or later, as MLX asks
/// for. Whether its compiler knows them, and whether they compute what they should, only trying tells.
pub fn has_tensor_operations() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        cfg!(target_os = "macos")
            && may_have_tensor_operations(
                &answer("/usr/sbin/sysctl", &["-n", "machdep.cpu.brand_string"]).unwrap_or_default(),
                &answer("/usr/bin/sw_vers", &["-productVersion"]).unwrap_or_default(),
            )
    });
    *FOUND
}

/// From the processor's name and the version of macOS.
fn may_have_tensor_operations(name: &str, version: &str) -> bool {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let generation = name.trim().strip_prefix("Apple M").and_then(digits);
    let mut version = version.trim().split('.').map(|part| digits(part).unwrap_or(0));
    let version = (version.next().unwrap_or(0), version.next().unwrap_or(0));
    generation.is_some_and(|generation| generation >= 5) && version >= (26, 2)
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
    fn tensor_operations_need_an_m5_and_a_new_system() {
        for (name, version) in [("Apple M5\n", "26.2\n"), ("Apple M5 Max", "26.10.1"), ("Apple M10 Pro", "27.0")] {
            assert!(may_have_tensor_operations(name, version), "{name} {version}");
        }
        for (name, version) in [("Apple M4 Max", "26.4"), ("Apple M5", "26.1"), ("Apple M5", "15.6"), ("Apple M5", "")] {
            assert!(!may_have_tensor_operations(name, version), "{name} {version}");
        }
        assert!(!may_have_tensor_operations("Intel(R) Core(TM) i9", "26.2") && !may_have_tensor_operations("", "26.2"));
    }

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
