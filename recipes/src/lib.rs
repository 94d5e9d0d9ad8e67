#![doc = include_str!("../README.md")]
//!
//! Nothing here is generic over a backend: models on a device are used through the traits of `burnish-engine`.

pub mod cli;
pub mod config;
pub mod dashboard;
pub mod environment;
pub mod evaluation;
pub mod fit;
pub mod generation;
pub mod hint;
pub mod inspect;
pub mod plan;
pub mod quickstart;
pub mod recipe;
pub mod report;
pub mod run_page;
pub mod storage;
pub mod system;
pub mod tracker;
pub mod train;
pub mod tune;
pub mod verify;

pub use burnish_data as data;
