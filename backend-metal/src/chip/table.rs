//! The table of chips.
//!
//! Sources: cores and bandwidth from Apple's technical specifications and press releases (M5 Pro and Max: March 2026). Clocks:
//! philipturner/metal-benchmarks (M1 1.296, M2 1.398 GHz); 18 cores of M3 Pro at 1.398 GHz are its 6.44 TFLOP/s; M4 from the
//! 4.26 TFLOP/s of its 10 cores in arXiv 2502.05317. None is published for M5, which is assumed to be as fast as M4. Matrix units of M5:
//! those of A19, whose 5 cores reach 7.5 TFLOP/s in f16 (tzakharko), do about 1024 operations a core and clock; others measured 26.6 to 29.0
//! TFLOP/s in bf16 on an M5 Pro (tessl 0.2), where 20 such cores would have 34.
//! Nothing here was measured by this project.

use serde::Serialize;

/// A generation of GPU cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs)]
pub enum Generation {
    M1,
    M2,
    M3,
    M4,
    M5,
}

/// Lanes of a GPU core, each with one fused multiply-add a clock, in f32 and in f16.
const LANES: f64 = 128.0;
/// Operations of a core's matrix units in a clock, in f16, where it has some.
pub const MATRIX_OPERATIONS: f64 = 1024.0;

impl Generation {
    /// Clock of the GPU in GHz.
    pub fn clock_ghz(self) -> f64 {
        match self {
            Self::M1 => 1.296,
            Self::M2 | Self::M3 => 1.398,
            Self::M4 | Self::M5 => 1.664,
        }
    }

    /// Whether the hardware computes bfloat. M1 and M2 convert each value to f32 and back with several integer instructions; f16 is
    /// native on all of them.
    pub fn has_bfloat(self) -> bool {
        self >= Self::M3
    }

    /// Whether each core has matrix units besides its lanes. Metal 4's tensor operations use them; `simdgroup_matrix`, which cubecl
    /// emits, runs on the lanes.
    pub fn has_matrix_units(self) -> bool {
        self >= Self::M5
    }
}

/// A chip with one of the numbers of GPU cores that it is sold with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Chip {
    /// As macOS names it.
    pub name: &'static str,
    /// Its GPU's generation.
    pub generation: Generation,
    /// GPU cores.
    pub gpu_cores: u32,
    /// Bandwidth of the unified memory in GB/s.
    pub bandwidth: f64,
}

impl Chip {
    /// Peak rate of the lanes in TFLOP/s, in f32 and in f16, matrices included.
    pub fn tflops(&self) -> f64 {
        f64::from(self.gpu_cores) * LANES * 2.0 * self.generation.clock_ghz() / 1e3
    }

    /// Peak rate of the matrix units in TFLOP/s, in f16, where the chip has some. An assumption: Apple publishes none.
    pub fn matrix_tflops(&self) -> Option<f64> {
        let rate = f64::from(self.gpu_cores) * MATRIX_OPERATIONS * self.generation.clock_ghz() / 1e3;
        self.generation.has_matrix_units().then_some(rate)
    }
}

macro_rules! chips {
    ($($name:literal $generation:ident: $($cores:literal at $bandwidth:literal),+;)*) => {
        /// Every known chip, by name and cores.
        pub const CHIPS: &[Chip] = &[$($(
            Chip { name: $name, generation: Generation::$generation, gpu_cores: $cores, bandwidth: $bandwidth },
        )+)*];
    };
}

chips! {
    "Apple M1" M1: 7 at 68.25, 8 at 68.25;
    "Apple M1 Pro" M1: 14 at 200.0, 16 at 200.0;
    "Apple M1 Max" M1: 24 at 400.0, 32 at 400.0;
    "Apple M1 Ultra" M1: 48 at 800.0, 64 at 800.0;
    "Apple M2" M2: 8 at 100.0, 10 at 100.0;
    "Apple M2 Pro" M2: 16 at 200.0, 19 at 200.0;
    "Apple M2 Max" M2: 30 at 400.0, 38 at 400.0;
    "Apple M2 Ultra" M2: 60 at 800.0, 76 at 800.0;
    "Apple M3" M3: 8 at 100.0, 10 at 100.0;
    "Apple M3 Pro" M3: 14 at 150.0, 18 at 150.0;
    "Apple M3 Max" M3: 30 at 300.0, 40 at 400.0;
    "Apple M3 Ultra" M3: 60 at 819.0, 80 at 819.0;
    "Apple M4" M4: 8 at 120.0, 10 at 120.0;
    "Apple M4 Pro" M4: 16 at 273.0, 20 at 273.0;
    "Apple M4 Max" M4: 32 at 410.0, 40 at 546.0;
    "Apple M5" M5: 8 at 153.0, 10 at 153.0;
    "Apple M5 Pro" M5: 16 at 307.0, 20 at 307.0;
    "Apple M5 Max" M5: 32 at 460.0, 40 at 614.0;
}

/// The chip with a name and a number of GPU cores; without the number, the largest with that name.
pub fn chip(name: &str, gpu_cores: Option<u32>) -> Option<&'static Chip> {
    let mut same = CHIPS.iter().filter(|chip| chip.name == name.trim());
    match gpu_cores {
        Some(cores) => same.find(|chip| chip.gpu_cores == cores),
        None => same.next_back(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_found_by_name_and_cores() {
        assert!((chip("Apple M3 Max", Some(30)).unwrap().bandwidth - 300.0).abs() < 1e-9);
        assert_eq!(chip("Apple M3 Max\n", None).unwrap().gpu_cores, 40);
        assert!(chip("Apple M3 Max", Some(31)).is_none() && chip("Intel(R) Core(TM) i9", None).is_none());
    }

    #[test]
    fn rates_are_those_of_the_sources() {
        let tflops = |name, cores| chip(name, Some(cores)).unwrap().tflops();
        assert!((tflops("Apple M1 Pro", 16) - 5.308).abs() < 0.01);
        assert!((tflops("Apple M3 Pro", 18) - 6.44).abs() < 0.01);
        assert!((tflops("Apple M4", 10) - 4.26).abs() < 0.01);
        let units = |name, cores| chip(name, Some(cores)).unwrap().matrix_tflops();
        assert!(units("Apple M4", 10).is_none() && (units("Apple M5 Pro", 20).unwrap() - 34.08).abs() < 0.01);
        assert!(!Generation::M2.has_bfloat() && Generation::M3.has_bfloat() && !Generation::M4.has_matrix_units());
    }
}
