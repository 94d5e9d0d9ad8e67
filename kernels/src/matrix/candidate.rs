//! The ways in which a device can compute a product: routes and shapes of tiles, each of which the tuner can choose.

use std::fmt;

use crate::products::DEFAULT_CANDIDATE;

use super::direct::DirectTiles;
use super::plan::Tiles;
use super::thin::ThinTiles;
use super::units::UnitTiles;

/// Rows of tiles that cubes take together, where no other number was chosen.
pub(super) const BAND: usize = 8;

/// One way to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    pub method: Method,
    /// Parts of the sum over `k` that different cubes compute; `None` where the plan decides.
    pub parts: Option<usize>,
}

/// A route, with its tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Method {
    /// By the plan.
    Default,
    /// By the vendor's library.
    Library,
    /// Dequantised into a scratch, and multiplied as dense.
    Scratch,
    /// On matrix units, from tiles in shared memory.
    Tiled(Tiled),
    /// On matrix units, straight from the operands.
    Direct(DirectTiles),
    /// By Metal's tensor operations.
    Units(UnitTiles),
    /// On matrix units, with a thin operand.
    Thin(ThinTiles),
    /// By multiply-adds of the threads.
    Threads,
}

/// Tiles in shared memory, and how they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tiled {
    pub tiles: Tiles,
    /// Whether kernels access the registers of matrix units.
    pub in_registers: bool,
    /// Rows of tiles that cubes take together.
    pub band: usize,
    /// Whether results are written as lanes hold them.
    pub lanes: bool,
}

impl Candidate {
    /// The plan's own choice.
    pub const DEFAULT: Self = Self { method: Method::Default, parts: None };

    /// That method, with as many parts as the plan finds right.
    pub fn new(method: Method) -> Self {
        Self { method, parts: None }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            Method::Default => f.write_str(DEFAULT_CANDIDATE)?,
            Method::Library => f.write_str("library")?,
            Method::Scratch => f.write_str("scratch")?,
            Method::Threads => f.write_str("threads")?,
            Method::Direct(DirectTiles { m, n, planes_m, planes_n, .. }) => {
                write!(f, "direct {m}x{n} planes {planes_m}x{planes_n}")?;
            }
            Method::Thin(ThinTiles { fragments, planes }) => write!(f, "thin {fragments} planes {planes}")?,
            Method::Units(UnitTiles { m, n, planes }) => write!(f, "units {m}x{n} planes {planes}")?,
            Method::Tiled(Tiled { tiles, in_registers, band, lanes }) => {
                let route = if in_registers { "registers" } else { "tiles" };
                let Tiles { m, n, k, planes_m, planes_n, stages, .. } = tiles;
                write!(f, "{route} {m}x{n}x{k} planes {planes_m}x{planes_n}")?;
                if stages > 1 {
                    write!(f, " stages {stages}")?;
                }
                if band != BAND {
                    write!(f, " band {band}")?;
                }
                if lanes {
                    f.write_str(" lanes")?;
                }
            }
        }
        match self.parts {
            Some(parts) => write!(f, " parts {parts}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Fragment;
    use super::*;

    #[test]
    fn names_say_what_differs() {
        let fragment = Fragment { m: 8, n: 8, k: 8 };
        let tiles = Tiles { m: 64, n: 32, k: 32, planes_m: 2, planes_n: 2, fragment, stages: 1 };
        let tiled = Tiled { tiles, in_registers: false, band: BAND, lanes: false };
        let name = |method, parts| Candidate { method, parts }.to_string();
        assert_eq!(name(Method::Tiled(tiled), None), "tiles 64x32x32 planes 2x2");
        let other = Tiled { band: 4, lanes: true, tiles: Tiles { stages: 2, ..tiles }, in_registers: true };
        assert_eq!(name(Method::Tiled(other), Some(3)), "registers 64x32x32 planes 2x2 stages 2 band 4 lanes parts 3");
        let direct = DirectTiles { m: 32, n: 32, planes_m: 1, planes_n: 1, fragment };
        assert_eq!(name(Method::Direct(direct), None), "direct 32x32 planes 1x1");
        let thin = ThinTiles { fragments: 4, planes: 8 };
        assert_eq!(name(Method::Thin(thin), Some(2)), "thin 4 planes 8 parts 2");
        let units = UnitTiles { m: 128, n: 64, planes: 4 };
        assert_eq!(name(Method::Units(units), None), "units 128x64 planes 4");
        assert_eq!(Candidate::DEFAULT.to_string(), DEFAULT_CANDIDATE);
    }
}
