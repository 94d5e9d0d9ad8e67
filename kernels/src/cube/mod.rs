//! Shared by the GPU kernels: launching, reductions over the threads of a cube, and the choice between kernels and references.
//!
//! Kernels are written once in CubeCL and stand with their operations, in `<operation>/cube.rs`. What CubeCL calls a unit is a
//! thread. A plane is a SIMD-group (Metal), subgroup (Vulkan) or warp (CUDA); a cube is a threadgroup, workgroup or block.

mod backend;
pub(crate) mod launch;
mod on;
pub(crate) mod reduce;
pub(crate) mod results;
pub(crate) mod rows;
pub(crate) mod runtime;

pub use on::BackendOn;
