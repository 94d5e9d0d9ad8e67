//! Adapters of every kind and family against PEFT, and what merging them gives: one program, because the model's code is compiled for
//! each.
#![allow(clippy::unwrap_used)]

mod adapters;
mod experts;
mod families;
#[path = "../golden/mod.rs"]
mod golden;
#[path = "../golden_batch/mod.rs"]
mod golden_batch;
mod merge;
mod packed;
