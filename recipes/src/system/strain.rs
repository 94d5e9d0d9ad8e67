//! What slows a machine down while it works.

use burnish_bench::machine::answer;

use super::probe::{low_power_mode, swap_used};

/// The state of the machine; what the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strain {
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// macOS: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping.
    pub thermal_pressure: Option<u8>,
    /// macOS: whether low-power mode is on.
    pub low_power_mode: Option<bool>,
}

impl Strain {
    /// The thermal pressure from which on a Mac slows its processors down.
    pub const HEAVY: u8 = 2;

    /// Asks the system.
    pub fn now() -> Self {
        let is_mac = cfg!(target_os = "macos");
        let pressure = || of_notifyutil(&answer("/usr/bin/notifyutil", &["-g", PRESSURE])?);
        Self {
            swap_used_bytes: swap_used(),
            thermal_pressure: is_mac.then(pressure).flatten(),
            low_power_mode: is_mac.then(low_power_mode).flatten(),
        }
    }
}

/// The notification that carries the thermal pressure.
const PRESSURE: &str = "com.apple.system.thermalpressurelevel";

/// From `notifyutil -g`: the name of the notification and its state.
fn of_notifyutil(text: &str) -> Option<u8> {
    let (name, state) = text.trim().rsplit_once(' ')?;
    if name.trim() == PRESSURE { state.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_notifyutil_is_read() {
        assert_eq!(of_notifyutil("com.apple.system.thermalpressurelevel 2\n"), Some(2));
        for other in
            ["", "com.apple.system.thermalpressurelevel", "another 2", "com.apple.system.thermalpressurelevel failed"]
        {
            assert_eq!(of_notifyutil(other), None, "{other}");
        }
        let now = Strain::now();
        assert!(cfg!(target_os = "macos") || (now.thermal_pressure, now.low_power_mode) == (None, None));
    }
}
