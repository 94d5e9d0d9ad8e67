//! Shared by the CPU kernels: strided products on `gemm`, vector loops, and views of Flex tensors.
//!
//! The kernels themselves stand with their operations, in `<operation>/flex.rs`.

mod backend;
pub(crate) mod matrix;
mod tensors;
pub(crate) mod vector;

pub(crate) use tensors::{all_f32, dims2, tensor};
