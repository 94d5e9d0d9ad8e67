//! The report as Markdown.

use burnish_engine::gib;

use super::{BackendFacts, MacFacts, RepairsOfAStep, SystemReport};

const UNKNOWN: &str = "unknown";

impl SystemReport {
    /// The report without anything that looks like a path: drivers' names and errors may have some.
    #[must_use]
    pub fn without_paths(mut self) -> Self {
        for text in [&mut self.system, &mut self.chip].into_iter().flatten() {
            *text = without_paths(text);
        }
        for backend in &mut self.backends {
            for device in &mut backend.devices {
                device.name = without_paths(&device.name);
                device.driver = device.driver.as_deref().map(without_paths);
            }
            backend.test = backend.test.as_deref().map(without_paths);
        }
        if let Some(repairs) = &mut self.repairs {
            repairs.error = repairs.error.as_deref().map(without_paths);
        }
        self
    }

    /// Two tables: the machine, and the backends.
    pub fn markdown(&self) -> String {
        let mut rows = vec![
            ("Burnish", format!("{} (burn {}, cubecl {})", self.burnish, self.burn, self.cubecl)),
            ("system", or_unknown(self.system.clone())),
            ("architecture", self.architecture.clone()),
            ("chip", or_unknown(self.chip.clone())),
            ("CPU cores", format!("{}, {} threads", or_unknown(self.cpu_cores), or_unknown(self.threads))),
            ("GPU cores", or_unknown(self.gpu_cores)),
            ("memory", or_unknown(self.memory_bytes.map(gib))),
            ("swap in use", or_unknown(self.swap_used_bytes.map(gib))),
        ];
        rows.extend(self.mac.iter().flat_map(of_mac));
        let mut lines = vec!["| | |".to_owned(), "|---|---|".to_owned()];
        lines.extend(rows.into_iter().map(|(name, value)| format!("| {name} | {} |", cell(&value))));
        let is_tested = self.backends.iter().any(|backend| backend.works.is_some());
        let (title, rule) = if is_tested { (" test |", "---|") } else { ("", "") };
        lines.extend([String::new(), format!("| backend | found | device | driver |{title}")]);
        lines.push(format!("|---|---|---|---|{rule}"));
        lines.extend(self.backends.iter().map(|backend| of_backend(backend, is_tested)));
        lines.extend(self.repairs.iter().flat_map(of_repairs));
        if !self.skipped_repairs.is_empty() {
            lines.extend([String::new(), format!("BURNISH_SKIP_REPAIR={}", self.skipped_repairs.join(","))]);
        }
        lines.join("\n")
    }
}

/// A table of the repairs of Metal code.
fn of_repairs(repairs: &RepairsOfAStep) -> Vec<String> {
    let title = format!("| repair on `{}` | kernels of a step | fault | from |", repairs.backend);
    let mut lines = vec![String::new(), title, "|---|---|---|---|".to_owned()];
    if let Some(error) = &repairs.error {
        lines.push(format!("| – | – | the step failed: {} | – |", cell(error)));
    }
    let row = |rule: &super::RepairFacts| {
        format!("| {} | {} | {} | {} |", rule.rule, rule.kernels, cell(rule.fault), cell(rule.upstream))
    };
    lines.extend(repairs.rules.iter().map(row));
    lines
}

fn of_mac(mac: &MacFacts) -> [(&'static str, String); 4] {
    let limit = match mac.wired_limit_mb {
        Some(0) => "0 (the system's default)".to_owned(),
        limit => or_unknown(limit),
    };
    [
        ("working-set limit", format!("{}, iogpu.wired_limit_mb {limit}", or_unknown(mac.working_set_bytes.map(gib)))),
        ("low-power mode", or_unknown(mac.low_power_mode.map(|on| if on { "on" } else { "off" }))),
        ("bf16 in the GPU", yes_or_no(mac.bf16)),
        // cubecl 0.10 has no bf16 in its Metal dialect.
        ("bf16 in `metal`", "no".to_owned()),
    ]
}

fn of_backend(backend: &BackendFacts, is_tested: bool) -> String {
    let joined = |values: Vec<String>| if values.is_empty() { "–".to_owned() } else { values.join("; ") };
    let names = joined(backend.devices.iter().map(|device| device.name.clone()).collect());
    let drivers = joined(backend.devices.iter().map(|device| or_unknown(device.driver.clone())).collect());
    let line = format!("| {} | {} | {} | {} |", backend.name, yes_or_no(backend.found), cell(&names), cell(&drivers));
    if !is_tested {
        return line;
    }
    let verdict = match (backend.works, &backend.test) {
        (Some(true), Some(test)) => format!("passed: {test}"),
        (Some(false), Some(test)) => format!("failed: {test}"),
        _ => UNKNOWN.to_owned(),
    };
    format!("{line} {} |", cell(&verdict))
}

fn or_unknown(fact: Option<impl ToString>) -> String {
    fact.map_or_else(|| UNKNOWN.to_owned(), |fact| fact.to_string())
}

fn yes_or_no(fact: Option<bool>) -> String {
    or_unknown(fact.map(|fact| if fact { "yes" } else { "no" }))
}

/// A value in a cell of a table: one line, without bars.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The text with every word that looks like a path replaced.
fn without_paths(text: &str) -> String {
    let plain = |word: &str| {
        let inner = word.trim_start_matches(|c: char| !(c.is_alphanumeric() || "/~\\.".contains(c)));
        let has_drive = inner.as_bytes().get(1) == Some(&b':') && inner.contains(['\\', '/']);
        let is_path = ["/", "~", "./", "../", "\\\\"].iter().any(|start| inner.starts_with(start)) || has_drive;
        let holds_path = ["=/", ":/", "=~", "(/"].iter().any(|inside| inner.contains(inside));
        if is_path || holds_path { "(path)" } else { word }.to_owned()
    };
    text.split_whitespace().map(plain).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceFacts, RepairFacts};
    use super::*;

    fn planted() -> SystemReport {
        let device = DeviceFacts {
            name: "Radeon Pro | 5300M".to_owned(),
            driver: Some("Mesa 24.1 from /home/alice/mesa/lib".to_owned()),
        };
        SystemReport {
            burnish: "0.1.0",
            burn: "0.21.0",
            cubecl: "0.10.0",
            system: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
            architecture: "aarch64".to_owned(),
            chip: Some("Apple M3 Max".to_owned()),
            cpu_cores: Some(16),
            threads: Some(16),
            gpu_cores: None,
            memory_bytes: Some(64 << 30),
            swap_used_bytes: None,
            mac: None,
            backends: vec![
                BackendFacts {
                    name: "vulkan",
                    found: Some(true),
                    devices: vec![device],
                    works: Some(false),
                    test: Some("can't open '/Users/alice/x.json' or C:\\Users\\alice\\y,\nfile=/opt/z ~/w".to_owned()),
                },
                BackendFacts { name: "cpu", found: None, devices: Vec::new(), works: None, test: None },
            ],
            repairs: None,
            skipped_repairs: Vec::new(),
        }
    }

    #[test]
    fn paths_and_the_names_in_them_are_left_out() {
        let report = planted().without_paths();
        let json = serde_json::to_string(&report).unwrap();
        for text in [report.markdown(), json] {
            for private in ["alice", "/home", "/Users", "C:", "/opt", "~/"] {
                assert!(!text.contains(private), "{private} in {text}");
            }
            assert!(text.contains("Debian GNU/Linux 12 (bookworm)") && text.contains("Mesa 24.1 from (path)"), "{text}");
        }
    }

    #[test]
    fn facts_that_are_not_known_say_so_and_cells_stay_cells() {
        let text = planted().without_paths().markdown();
        assert!(text.contains("| GPU cores | unknown |") && text.contains("| swap in use | unknown |"), "{text}");
        assert!(text.contains("| memory | 64.00 GiB |") && text.contains("| CPU cores | 16, 16 threads |"), "{text}");
        assert!(text.contains("| cpu | unknown | – | – | unknown |"), "{text}");
        assert!(text.contains("Radeon Pro \\| 5300M"), "{text}");
        assert!(!text.contains("low-power"), "{text}");
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        let [machine, backends] = text.split("\n\n").collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(machine.lines().all(|line| bars(line) == 3) && backends.lines().all(|line| bars(line) == 6), "{text}");
    }

    #[test]
    fn repairs_are_a_table_and_switches_are_named() {
        let rule = RepairFacts { rule: "sync_cube", kernels: 3, fault: "a | b", upstream: "cubecl" };
        let error = Some("can't read /home/alice/x".to_owned());
        let repairs = Some(RepairsOfAStep { backend: "metal", rules: vec![rule], error });
        let text = SystemReport { repairs, skipped_repairs: vec!["printf"], ..planted() }.without_paths().markdown();
        assert!(text.contains("| sync_cube | 3 | a \\| b | cubecl |") && !text.contains("alice"), "{text}");
        assert!(text.ends_with("\n\nBURNISH_SKIP_REPAIR=printf"), "{text}");
    }

    #[test]
    fn a_mac_has_its_limits() {
        let mac =
            MacFacts { working_set_bytes: Some(48 << 30), wired_limit_mb: Some(0), low_power_mode: Some(true), bf16: None };
        let text = SystemReport { mac: Some(mac), backends: Vec::new(), ..planted() }.markdown();
        assert!(text.contains("| working-set limit | 48.00 GiB, iogpu.wired_limit_mb 0 (the system's default) |"), "{text}");
        assert!(text.contains("| low-power mode | on |") && text.contains("| bf16 in the GPU | unknown |"), "{text}");
    }
}
