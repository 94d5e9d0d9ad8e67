//! Attention on the GPU in memory that grows with the sequence, not with its square (Dao 2023, "FlashAttention-2").
//!
//! A cube owns some rows of scores and goes over their columns, a tile at a time. In the forward and for `dQ` the rows are
//! queries, for `dK` and `dV` they are keys. Gradients are taken without atomics, so that they are the same each time.

mod decode;
mod lanes;
mod launch;
mod registers;
mod registers_backward;
mod registers_forward;
mod scores;
mod units;
mod units_backward;

pub(crate) use decode::decode;
pub(crate) use launch::{backward, fits, forward};
