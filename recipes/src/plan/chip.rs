//! Apple's chips: what the table of `burnish-metal` says of them.

use anyhow::Result;
use burnish_engine::with_hint;

/// A chip's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Its name, with its GPU cores.
    pub name: String,
    /// Float operations in 10¹² a second.
    pub tflops: f64,
    /// Bandwidth of the memory in GB/s.
    pub bandwidth: f64,
}

/// The chip of that name, such as "M4 Pro"; of those with different numbers of GPU cores the largest.
///
/// # Errors
/// If the chip is unknown; the hint lists the known ones.
#[cfg(feature = "metal")]
pub fn named(name: &str) -> Result<Rates> {
    use burnish_metal::chip::{CHIPS, chip};
    let full = if name.starts_with("Apple ") { name.to_owned() } else { format!("Apple {name}") };
    if let Some(chip) = chip(&full, None) {
        return Ok(rates(chip));
    }
    let mut names: Vec<&str> = CHIPS.iter().map(|chip| chip.name).collect();
    names.dedup();
    Err(with_hint(format!("unknown chip `{name}`"), format!("expected one of {}", names.join(", "))))
}

#[cfg(feature = "metal")]
fn rates(chip: &burnish_metal::chip::Chip) -> Rates {
    let name = format!("{} with {} GPU cores", chip.name, chip.gpu_cores);
    Rates { name, tflops: chip.tflops(), bandwidth: chip.bandwidth }
}

/// The chip of this machine, if it is one of Apple's that the table has.
#[cfg(feature = "metal")]
pub fn of_this_machine() -> Option<Rates> {
    burnish_metal::chip::machine()?.chip.map(rates)
}

/// The same, in a build that knows none.
///
/// # Errors
/// Always.
#[cfg(not(feature = "metal"))]
pub fn named(_name: &str) -> Result<Rates> {
    Err(no_chips())
}

/// The same, in a build that knows none.
#[cfg(not(feature = "metal"))]
pub fn of_this_machine() -> Option<Rates> {
    None
}

/// The error of builds that know no chips.
#[cfg(not(feature = "metal"))]
pub(super) fn no_chips() -> anyhow::Error {
    with_hint("this build does not know Apple's chips", "rebuild with --features metal, which works on every system")
}

#[cfg(all(test, feature = "metal"))]
mod tests {
    use super::*;

    #[test]
    fn chips_are_found_with_and_without_the_makers_name() {
        let chip = named("M4 Max").unwrap();
        assert_eq!((chip.name.as_str(), chip.bandwidth), ("Apple M4 Max with 40 GPU cores", 546.0));
        assert_eq!(named("Apple M4 Max").unwrap(), chip);
        let error = named("M4 Mega").unwrap_err();
        assert!(crate::hint::hint(&error).unwrap().contains("Apple M4 Max"));
    }
}
