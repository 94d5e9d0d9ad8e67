//! Low-rank adapters on frozen weights: configuration, attaching, PEFT folders, merging.

#![warn(missing_docs)]

pub mod attach;
pub mod config;
pub mod error;
pub mod merge;
pub mod pattern;
pub mod peft;

pub use attach::{attach, check_model};
pub use config::{LoraConfig, TargetModules};
pub use error::{LoraError, Result};
pub use merge::MergedCheckpoint;
pub use pattern::Pattern;
pub use peft::{ADAPTER_FILES, config_notes, load_adapter, read_config, save_adapter};
