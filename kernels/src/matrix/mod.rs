//! Matrix products of the GPU: on matrix units where the device has them, else on its lanes.
//!
//! `C = alpha · (A B + A₂ B₂)`, with either operand as it lies in memory or transposed. The second pair, narrow and tall, is one
//! more step of the sum over `k`: that is how an adapter's update rides along with its base layer.

mod lanes;
mod launch;
mod mma;
mod plan;
pub(crate) mod registers;
mod tile;
mod units;

pub(crate) use launch::{More, Product, multiply};
pub(crate) use plan::{Fragment, PADDING, PLANE, Route, has_registers, route};
