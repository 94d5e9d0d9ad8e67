//! Asks the system.

use burnish_bench::machine::{VERSIONS, answer, cpu};
use burnish_engine::guard::guarded;

use super::{MacFacts, RepairsOfAStep, SystemReport, backends, repairs};

/// The report of this machine. With `tested`, every backend of this build is opened and tested too.
pub fn report(tested: bool) -> SystemReport {
    let mac = cfg!(target_os = "macos").then(mac);
    SystemReport {
        burnish: VERSIONS.burnish,
        burn: VERSIONS.burn,
        cubecl: VERSIONS.cubecl,
        system: system(),
        architecture: architecture(),
        chip: cpu(),
        cpu_cores: cpu_cores(),
        threads: std::thread::available_parallelism().ok().map(usize::from),
        gpu_cores: gpu_cores(),
        memory_bytes: burnish_backends::capacity::of_machine(),
        swap_used_bytes: swap_used(),
        mac,
        backends: backends::all(tested),
        repairs: repairs::backend().filter(|_| tested).map(repairs_of_a_step),
        skipped_repairs: repairs::skipped(),
    }
}

/// The name of a backend's device and of its driver, both empty where the system does not tell. On macOS, the driver is the system.
pub fn device_and_driver(backend: &str) -> (String, String) {
    let (_, devices) = backends::devices(backend);
    // A real GPU is preferred, as by the backends.
    let is_software = |device: &super::DeviceFacts| device.name.ends_with("(software)");
    let device = devices.iter().find(|device| !is_software(device)).or(devices.first());
    let driver = device.and_then(|device| device.driver.clone());
    let of_system = || if cfg!(target_os = "macos") { system() } else { None };
    (device.map(|device| device.name.clone()).unwrap_or_default(), driver.or_else(of_system).unwrap_or_default())
}

fn repairs_of_a_step(backend: &'static str) -> RepairsOfAStep {
    match guarded(|| repairs::of_a_step(backend)) {
        Ok(rules) => RepairsOfAStep { backend, rules, error: None },
        Err(error) => RepairsOfAStep { backend, rules: Vec::new(), error: Some(format!("{error:#}")) },
    }
}

fn sysctl(key: &str) -> Option<String> {
    answer("/usr/sbin/sysctl", &["-n", key])
}

fn system() -> Option<String> {
    if cfg!(target_os = "macos") {
        return Some(format!("macOS {}", answer("/usr/bin/sw_vers", &["-productVersion"])?));
    }
    if cfg!(target_os = "windows") {
        return answer("cmd", &["/C", "ver"]);
    }
    let name = of_os_release(&std::fs::read_to_string("/etc/os-release").ok()?)?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let kernel =
        kernel.as_deref().and_then(kernel_version).map_or_else(String::new, |version| format!(", kernel {version}"));
    Some(format!("{name}{kernel}"))
}

/// `PRETTY_NAME` of `/etc/os-release`.
fn of_os_release(text: &str) -> Option<String> {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The numbers at the start of a kernel's release; what follows may be anything.
fn kernel_version(release: &str) -> Option<&str> {
    let end = release.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(release.len());
    Some(release[..end].trim_end_matches('.')).filter(|version| !version.is_empty())
}

fn architecture() -> String {
    let own = std::env::consts::ARCH;
    let is_translated = cfg!(target_os = "macos") && sysctl("sysctl.proc_translated").as_deref() == Some("1");
    if is_translated { format!("{own}, translated by Rosetta") } else { own.to_owned() }
}

fn cpu_cores() -> Option<usize> {
    if cfg!(target_os = "macos") {
        return sysctl("hw.physicalcpu")?.parse().ok();
    }
    cores_of_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// Different cores of `/proc/cpuinfo`, which lists threads.
fn cores_of_cpuinfo(text: &str) -> Option<usize> {
    let mut cores = std::collections::BTreeSet::new();
    let (mut package, mut is_known) = (None, false);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "physical id" => package = value.trim().parse::<u32>().ok(),
            "core id" => {
                is_known = true;
                cores.insert((package, value.trim().parse::<u32>().ok()?));
            }
            _ => {}
        }
    }
    is_known.then_some(cores.len())
}

/// Swap in use.
pub(super) fn swap_used() -> Option<u64> {
    if cfg!(target_os = "macos") {
        return of_swapusage(&sysctl("vm.swapusage")?);
    }
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// From macOS: `total = 2048.00M  used = 1022.25M  free = 1025.75M`.
fn of_swapusage(text: &str) -> Option<u64> {
    let used = text.split("used =").nth(1)?.split_whitespace().next()?;
    let mebibytes: f64 = used.strip_suffix('M')?.parse().ok()?;
    Some((mebibytes * f64::from(1 << 20)) as u64)
}

/// From Linux's `/proc/meminfo`.
fn of_meminfo(text: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(of("SwapTotal:")?.checked_sub(of("SwapFree:")?)? << 10)
}

fn gpu_cores() -> Option<u32> {
    #[cfg(feature = "metal")]
    return burnish_metal::chip::machine()?.gpu_cores;
    #[cfg(not(feature = "metal"))]
    None
}

fn mac() -> MacFacts {
    let low_power_mode = low_power_mode();
    #[cfg(feature = "metal")]
    if let Some(machine) = burnish_metal::chip::machine() {
        return MacFacts {
            working_set_bytes: Some(machine.budget.working_set),
            wired_limit_mb: machine.wired_limit_mb,
            low_power_mode,
            bf16: machine.chip.map(|chip| chip.generation.has_bfloat()),
        };
    }
    MacFacts { low_power_mode, ..MacFacts::default() }
}

/// Whether macOS saves power.
pub(super) fn low_power_mode() -> Option<bool> {
    of_pmset(&answer("/usr/bin/pmset", &["-g"])?)
}

/// From `pmset -g`: `lowpowermode 1`, or `powermode 1` on Macs that have a mode of high power too.
fn of_pmset(text: &str) -> Option<bool> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut modes = words.filter(|words| matches!(words.first(), Some(&"lowpowermode" | &"powermode")));
    Some(*modes.next()?.get(1)? == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_macos_are_read() {
        let swap = "total = 2048.00M  used = 1022.25M  free = 1025.75M  (encrypted)";
        assert_eq!(of_swapusage(swap), Some(1_071_906_816));
        assert_eq!(of_swapusage("no swap"), None);
        let settings = "System-wide power settings:\nCurrently in use:\n standby              1\n lowpowermode         1\n";
        assert_eq!(of_pmset(settings), Some(true));
        assert_eq!(of_pmset(&settings.replace("lowpowermode         1", "powermode 2")), Some(false));
        assert_eq!(of_pmset("Currently in use:\n"), None);
    }

    #[test]
    fn files_of_linux_are_read() {
        let release = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(of_os_release(release).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(of_os_release("ID=debian\n"), None);
        assert_eq!(kernel_version("6.1.0-18-alices-kernel\n"), Some("6.1.0"));
        assert_eq!(kernel_version("custom\n"), None);
        assert_eq!(of_meminfo("SwapTotal:  2048 kB\nSwapFree:  1024 kB\n"), Some(1 << 20));
        assert_eq!(of_meminfo("MemTotal: 1 kB\n"), None);
        let thread = |package, core| format!("processor: 0\nphysical id\t: {package}\ncore id\t\t: {core}\n\n");
        let two = [thread(0, 0), thread(0, 0), thread(0, 1), thread(0, 1)].concat();
        assert_eq!(cores_of_cpuinfo(&two), Some(2));
        assert_eq!(cores_of_cpuinfo(&[two, thread(1, 0)].concat()), Some(3));
        assert_eq!(cores_of_cpuinfo("processor: 0\nBogoMIPS: 50\n"), None);
    }

    #[test]
    fn this_machine_has_a_backend() {
        let report = report(false);
        assert_eq!((report.backends[0].name, report.backends[0].found), ("cpu", Some(true)));
        assert_eq!(report.mac.is_some(), cfg!(target_os = "macos"));
        assert!(report.backends.iter().all(|backend| backend.works.is_none()));
    }
}
