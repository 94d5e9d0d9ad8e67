//! The recipes and the command line of Burnish.

pub mod backend;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod dtype;
pub mod generation;
pub mod hint;
pub mod memory;
pub mod quickstart;
pub mod report;
pub mod train;
pub mod weights;
