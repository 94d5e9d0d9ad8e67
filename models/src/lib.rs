//! Language models on [burn](https://burn.dev), generic over its `Backend`.
//!
//! - [`Pretrained`] opens a Hugging Face folder, a GGUF file or a model of the hub: configuration, tokenizer, chat template and
//!   a [`Checkpoint`] of the weights.
//! - [`LanguageModel`] loads the weights to a device and computes hidden states and logits.
//! - [`generate()`] produces text, with a key-value [`Cache`].
//!
//! Each family of models is one file of [`families`]. It describes a [`decoder`] made of the shared [`blocks`].
//!
//! The crate uses the fused operations of `burnish-kernels`; `burnish-lora` adds adapters to its models:
//!
//! ```text
//! burnish-kernels -> burnish-models -> burnish-lora -> burnish-export -> burnish-recipes
//! ```
//!
//! # Example
//!
//! ```no_run
//! use burn::backend::Flex;
//! use burnish_models::{FloatType, GenerateOptions, LoadOptions, Message, Pretrained, generate};
//!
//! # fn main() -> burnish_models::Result<()> {
//! let device = Default::default();
//! let opened = Pretrained::open("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let model = opened.load::<Flex>(&device, LoadOptions::frozen(FloatType::F32))?;
//!
//! let prompt = opened.chat_prompt(&[Message::new("user", "Name three metals.")])?;
//!
//! let end_tokens = opened.config.eos_token_id.clone();
//! let options = GenerateOptions { max_tokens: 64, end_tokens, ..GenerateOptions::default() };
//! generate(&model, &opened.tokenizer, &mut model.new_cache(), &prompt, &options, &device, |text| print!("{text}"))?;
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

pub mod atomic;
pub mod blocks;
pub mod cache;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod dora;
pub mod encoding;
pub mod error;
pub mod families;
pub mod float_type;
pub mod generate;
pub mod gguf;
pub mod hub;
pub mod input;
pub mod input_squares;
pub mod json;
mod json_file;
pub mod linear;
pub mod load_options;
pub mod loader;
pub mod model;
pub mod operand;
pub mod part;
pub mod pretrained;
pub mod quantization;
pub mod recognise;
pub mod rope;
pub mod sampling;
pub mod stacked;
pub mod storage;
pub mod tokenizer;
pub mod weight;

pub use blocks::{BlockState, Stream};
pub use cache::Cache;
pub use chat_template::{ChatTemplate, Conversation, MarkedText, Message};
pub use checkpoint::Checkpoint;
pub use config::{ModelConfig, RopeScaling, RotaryConfig};
pub use error::{ModelError, Result};
pub use float_type::FloatType;
pub use generate::{Finish, GenerateOptions, generate};
pub use hub::{HubEnvironment, HubRepository};
pub use input::ModelInput;
pub use input_squares::InputSquares;
pub use linear::{AdapterPass, DropoutSeed, Linear, LowRank};
pub use load_options::LoadOptions;
pub use model::LanguageModel;
pub use operand::{Operand, PackedWeight};
pub use pretrained::Pretrained;
pub use quantization::Quantization;
pub use sampling::{Sampler, SamplingOptions};
pub use stacked::{ExpertStack, StackedLowRank};
pub use storage::Storage;
pub use tokenizer::{SpecialTokens, Start, Tokenizer};
pub use weight::{AnyTensor, BaseTensor, MatrixWeight, NamedParameter, VectorWeight};
