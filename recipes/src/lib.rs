#![doc = include_str!("../README.md")]
//!
//! Nothing here knows a backend's type: models on a device are held through the door of `burnish-engine`.

pub mod cli;
pub mod config;
pub mod environment;
pub mod fit;
pub mod generation;
pub mod hint;
pub mod quickstart;
pub mod recipe;
pub mod report;
pub mod train;

pub use burnish_data as data;
