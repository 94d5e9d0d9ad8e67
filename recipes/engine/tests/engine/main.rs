//! Steps of training: adapters, checkpointed blocks, optimizers. One program, because the model's code is compiled for each.
#![allow(clippy::unwrap_used)]

mod adapters;
mod checkpointing;
#[path = "../../../../lora/tests/golden/mod.rs"]
mod golden;
mod optimizer;
