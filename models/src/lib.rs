//! Language models on [burn](https://burn.dev), generic over its `Backend`.
//!
//! One file a family ([`llama`]); reading checkpoints from Hugging Face folders, the hub and GGUF files
//! ([`Pretrained`], [`checkpoint`], [`gguf`]); tokenizer and chat template; key-value cache and generation.

#![warn(missing_docs)]

pub mod cache;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod dtype;
pub mod error;
pub mod generate;
pub mod gguf;
pub mod hub;
pub mod input;
pub mod json;
pub mod linear;
pub mod llama;
pub mod loader;
pub mod model;
pub mod pretrained;
pub mod rope;
pub mod sampling;
pub mod tokenizer;
pub mod weight;

pub use cache::Cache;
pub use chat_template::{ChatTemplate, Conversation, MarkedText, Message};
pub use checkpoint::Checkpoint;
pub use config::{ModelConfig, RopeScaling};
pub use dtype::ComputeType;
pub use error::{ModelError, Result};
pub use generate::{Finish, GenerateOptions, generate};
pub use hub::HubRepository;
pub use input::ModelInput;
pub use linear::{DropoutSeed, Linear, LowRank};
pub use loader::LoadOptions;
pub use model::LanguageModel;
pub use pretrained::Pretrained;
pub use sampling::{Sampler, SamplingOptions};
pub use tokenizer::{SpecialTokens, Start, Tokenizer};
pub use weight::{AnyTensor, NamedParameter, Weight};
