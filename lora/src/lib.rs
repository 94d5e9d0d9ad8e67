//! LoRA adapters for the models of [`burnish_models`]: low-rank updates `y = W x + scale · B A x` of frozen linear layers.
//!
//! The crate attaches new adapters to a model, writes them as PEFT folders, reads those of PEFT, mlx-lm and llama.cpp, and merges them
//! into a checkpoint. It stands between `burnish-models`, whose models it changes, and `burnish-export`, which writes adapters and merged
//! weights for other programs:
//!
//! ```text
//! burnish-kernels -> burnish-models -> burnish-lora -> burnish-export -> burnish-recipes
//! ```
//!
//! Everything is generic over burn's `Backend`; `burnish-engine` trains an adapter.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::backend::{Autodiff, Flex};
//! use burnish_lora::{LoraConfig, MergedCheckpoint, attach, load_adapter, save_adapter};
//! use burnish_models::{FloatType, LoadOptions, Pretrained};
//!
//! type Backend = Autodiff<Flex>;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Default::default();
//! let base = Pretrained::open("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let mut model = base.load::<Backend>(&device, LoadOptions::frozen(FloatType::F32))?;
//!
//! // New adapters on every linear layer of the blocks. Only they have gradients: train them, then save them.
//! let config = LoraConfig { rank: 16, alpha: 32.0, ..LoraConfig::default() };
//! attach(&mut model, &config, 42, &device)?;
//! let folder = Path::new("adapter");
//! save_adapter(&model, &config, &base.source, folder)?;
//!
//! // Continue from a PEFT folder, or merge it into the weights of the base.
//! load_adapter(&mut model, folder, None, &device)?;
//! let merged = MergedCheckpoint::of(&base, folder)?;
//! # drop(merged);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

pub mod attach;
pub mod change;
pub mod config;
mod decompose;
pub mod error;
mod file;
mod gguf;
pub mod host;
pub mod init;
mod layer;
mod load;
pub mod merge;
pub mod mlx;
mod modules;
pub mod pattern;
pub mod peft;
mod sites;
mod stacked;
mod stored;

pub use attach::{attach, attach_to, check_model};
pub use change::WeightChange;
pub use config::{LoraConfig, TargetModules};
pub use error::{LoraError, Result};
pub use file::transposed;
pub use host::{HostAdapter, HostLayer};
pub use init::Init;
pub use load::{load_adapter, resume_adapter};
pub use merge::MergedCheckpoint;
pub use pattern::Pattern;
pub use peft::{ADAPTER_FILES, save_adapter};
pub use stored::{adapter_files, config_notes, read_config};
