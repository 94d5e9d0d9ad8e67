//! Matrix products on the GPU: on matrix units where the device has them, else on its threads.
//!
//! `C = alpha · (A B + A₂ B₂)`, with either operand stored as is or transposed. The second pair, narrow and tall, adds one more step
//! to the sum over `k`: that is how the low-rank product of a LoRA adapter is added to that of its base layer.

mod call;
mod candidate;
mod chosen;
mod class;
mod direct;
mod fragments;
mod gather;
mod known;
mod lanes;
mod launch;
mod library;
mod mma;
mod operands;
mod options;
mod packed;
mod parts;
mod plan;
mod product;
pub(crate) mod registers;
mod sketch;
mod step;
mod thin;
mod threads;
mod tile;
mod trial;
mod units;

pub(crate) use chosen::{choose, note};
pub use launch::multiply_packed;
pub(crate) use library::ALIGNMENT;
pub use library::{Gemm, GemmStep, ProductLibrary};
pub use plan::PackedRoute;
pub(crate) use plan::{Fragment, PADDING, PLANE, Route, has_registers, packed_route, route};
pub(crate) use product::{More, Product};
pub(crate) use trial::trials;
