//! Language models on [burn](https://burn.dev), generic over its `Backend`.
//!
//! One file a family ([`families`]), which describes a [`decoder`] made of shared [`blocks`]; reading checkpoints from
//! Hugging Face folders, the hub and GGUF files ([`Pretrained`], [`checkpoint`], [`gguf`]); tokenizer and chat template;
//! key-value cache and generation.

#![warn(missing_docs)]

pub mod atomic;
pub mod blocks;
pub mod cache;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod dtype;
pub mod error;
pub mod families;
pub mod family;
pub mod generate;
pub mod gguf;
pub mod hub;
pub mod input;
pub mod json;
pub mod linear;
pub mod loader;
pub mod model;
pub mod part;
pub mod pretrained;
pub mod recognise;
pub mod rope;
pub mod sampling;
pub mod tokenizer;
pub mod weight;

pub use blocks::{BlockState, Stream};
pub use cache::Cache;
pub use chat_template::{ChatTemplate, Conversation, MarkedText, Message};
pub use checkpoint::Checkpoint;
pub use config::{ModelConfig, RopeScaling, RotaryConfig};
pub use dtype::ComputeType;
pub use error::{ModelError, Result};
pub use generate::{Finish, GenerateOptions, generate};
pub use hub::{HubEnvironment, HubRepository};
pub use input::ModelInput;
pub use linear::{AdapterPass, DropoutSeed, Linear, LowRank};
pub use loader::LoadOptions;
pub use model::LanguageModel;
pub use pretrained::Pretrained;
pub use sampling::{Sampler, SamplingOptions};
pub use tokenizer::{SpecialTokens, Start, Tokenizer};
pub use weight::{AnyTensor, NamedParameter, Weight};
