#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod allocator;
pub mod attempt;
pub mod corpus;
pub mod fuzz;
pub mod large;
pub mod mutate;
pub mod random;
pub mod target;

pub use allocator::Counting;
pub use attempt::{Attempt, Fault};
pub use corpus::Corpus;
pub use fuzz::{Stats, fuzz};
pub use random::Random;
pub use target::{TARGETS, Target};
