//! Instances of burn's own GPU kernels.
//!
//! cubek's matrix products and reductions take a minute to compile, and a crate that calls them compiles them. Here they are
//! called once, so that the crates behind this one share the instances (`opt-level = 1` shares generic code).

#![warn(missing_docs)]

use burn::tensor::Tensor;
use burnish_kernels::runtime::Wgpu;

/// Calls each of the large operations once.
pub fn instances(a: Tensor<Wgpu, 2>, b: Tensor<Wgpu, 2>) -> [Tensor<Wgpu, 2>; 3] {
    [a.clone().matmul(b), a.clone().sum_dim(1), a.max_dim(1)]
}
