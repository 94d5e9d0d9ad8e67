#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[cfg(feature = "gpu")]
mod adapters;
#[cfg(any(feature = "gpu", feature = "emulator"))]
mod broken;
mod errors;
pub mod lint;
pub mod msl;
pub mod repair;

pub mod chip;

#[cfg(feature = "emulator")]
pub mod emulator;
#[cfg(feature = "gpu")]
mod runtime;
#[cfg(feature = "gpu")]
mod server;
#[cfg(any(feature = "gpu", feature = "emulator"))]
mod threadgroup;
mod watchdog;

#[cfg(feature = "gpu")]
pub use adapters::{Adapter, adapters, has_gpu};
#[cfg(feature = "gpu")]
pub use runtime::{Metal, MetalRuntime, compile};
#[cfg(feature = "gpu")]
pub use server::MetalServer;
pub use watchdog::relax_watchdog;
