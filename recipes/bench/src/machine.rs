//! The machine and the versions that the figures belong to.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[cfg(feature = "metal")]
use burnish_engine::gib;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor.
    pub cpu: String,
    /// Threads that this process may use.
    pub threads: usize,
    /// GPUs, where their driver names them.
    pub gpus: Vec<String>,
    /// Operating system and architecture.
    pub system: String,
}

/// Versions of what computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// This program.
    pub burnish: &'static str,
    /// The framework.
    pub burn: &'static str,
    /// The compiler of its kernels.
    pub cubecl: &'static str,
    /// Whether cubecl chooses its kernels by trying them.
    pub autotune: bool,
    /// Whether burn fuses operations. No backend here does: `FusedBackend` is not implemented for `Fusion`.
    pub fusion: bool,
}

/// This program's versions; burn and cubecl are pinned in the workspace.
pub const VERSIONS: Versions = Versions {
    burnish: env!("CARGO_PKG_VERSION"),
    burn: "0.21.0",
    cubecl: "0.10.0",
    autotune: cfg!(feature = "autotune"),
    fusion: false,
};

impl Machine {
    /// This machine, as the system describes it.
    pub fn this() -> Self {
        Self {
            cpu: cpu().unwrap_or_else(|| "unknown".to_owned()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            gpus: gpus(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }

    /// For file names: its GPU without the driver's version, or its processor.
    pub fn slug(&self) -> String {
        let gpu = self.gpus.first().and_then(|gpu| gpu.split(',').next());
        slug(gpu.unwrap_or(&self.cpu))
    }
}

/// A name in lower case, with digits, points and hyphens only.
pub fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { ' ' };
    let plain: String = name.chars().map(plain).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("-")
}

/// The processor, where the system names it.
pub fn cpu() -> Option<String> {
    if cfg!(target_os = "macos") {
        return answer("/usr/sbin/sysctl", &["-n", "machdep.cpu.brand_string"]);
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gpus() -> Vec<String> {
    #[cfg(feature = "metal")]
    if let Some(machine) = burnish_metal::chip::machine() {
        let cores = machine.gpu_cores.map_or_else(String::new, |cores| format!(" with {cores} GPU cores"));
        return vec![format!("{}{cores}, {} for tensors", machine.name, gib(machine.budget.available()))];
    }
    nvidia_gpus()
}

/// NVIDIA's GPUs with the versions of their drivers, separated by commas.
pub fn nvidia_gpus() -> Vec<String> {
    let driver = answer("nvidia-smi", &["--query-gpu=name,driver_version", "--format=csv,noheader"]);
    driver.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// What a program prints, if it succeeds and prints anything.
pub fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The command line. Of absolute paths, only the last part.
pub fn command_line() -> String {
    std::env::args().map(|argument| shortened(&argument)).collect::<Vec<_>>().join(" ")
}

fn shortened(argument: &str) -> String {
    let path = std::path::Path::new(argument);
    let last = path.file_name().filter(|_| path.is_absolute() || argument.ends_with("burnish"));
    last.map_or_else(|| argument.to_owned(), |last| last.to_string_lossy().into_owned())
}

/// Today as year, month and day, UTC.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    date(seconds / 86_400)
}

/// The date of a day since 1970. Source: Hinnant 2013, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let dates = [0, 58, 59, 11_016, 11_017, 20_780].map(date);
        assert_eq!(dates, ["1970-01-01", "1970-02-28", "1970-03-01", "2000-02-29", "2000-03-01", "2026-11-23"]);
    }

    #[test]
    fn versions_are_the_workspaces() {
        let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")).unwrap();
        for (name, version) in [("burn", VERSIONS.burn), ("cubecl", VERSIONS.cubecl)] {
            assert!(manifest.contains(&format!("\n{name} = {{ version = \"={version}\"")), "{name} {version}");
        }
    }

    #[test]
    fn machines_have_names_for_files() {
        let mut machine = Machine { gpus: vec!["NVIDIA H100 80GB HBM3, 580.159.04".to_owned()], ..Machine::this() };
        assert_eq!(machine.slug(), "nvidia-h100-80gb-hbm3");
        (machine.gpus, machine.cpu) = (Vec::new(), "Intel(R) Xeon(R) CPU @ 2.80GHz".to_owned());
        assert_eq!(machine.slug(), "intel-r-xeon-r-cpu-2.80ghz");
    }

    #[test]
    fn a_machine_is_described() {
        let machine = Machine::this();
        assert!(machine.threads >= 1 && !machine.cpu.is_empty() && machine.system.contains(std::env::consts::ARCH));
    }
}
