#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod formulas;
mod step;

pub use formulas::Place;
pub use step::{Memory, Moment, Step, Trained};
