//! Products by Metal's tensor operations, which M5's matrix units compute.
//!
//! cubecl 0.10 can't express them. Kernels have marks instead, which the runtime replaces by text; see `docs/adr/0022-tensor-operations.md`.
//! A device whose runtime does not answer [`has_tensor_operations`](crate::KernelRuntime::has_tensor_operations) never launches them, and
//! one that does must first compute known products.

mod dense;
mod launch;
mod marks;
mod packed;
mod plan;
mod trust;

pub(super) use plan::{UNIT_STEP, UNIT_TILES, UnitTiles};
pub(super) use trust::trusted;
