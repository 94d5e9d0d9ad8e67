//! burn on Metal: a runtime of our own, through which every kernel's MSL passes and is repaired, and an emulator that executes
//! the same text on a CPU. `docs/metal.md` is the guide.

#![warn(missing_docs)]

mod errors;
pub mod lint;
pub mod msl;
pub mod repair;

#[cfg(feature = "emulator")]
pub mod emulator;
