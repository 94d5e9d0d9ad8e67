//! What the GPU kernels share: launching, and sums over the units of a cube.
//!
//! Kernels are written once in CubeCL and stand with their operations, in `<operation>/cube.rs`. A unit is a thread, a plane a
//! SIMD-group (Metal), subgroup (Vulkan) or warp (CUDA), a cube a threadgroup, workgroup or block.

mod backend;
pub(crate) mod launch;
pub(crate) mod reduce;
pub(crate) mod rows;
