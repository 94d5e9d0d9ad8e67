//! Writes the models of [`burnish_models`] and the adapters of [`burnish_lora`] as files that other programs open.
//!
//! | function | writes | for |
//! |---|---|---|
//! | [`export_hugging_face`] | a folder with safetensors | transformers, vLLM, mlx-lm, llama.cpp's converter |
//! | [`export_gguf`] | a GGUF file, or parts of one, optionally quantised | llama.cpp, Ollama, LM Studio |
//! | [`quantize_gguf`] | a GGUF file quantised | the same |
//! | [`MeasuredInputs::write`] | an importance matrix | the quantisation of GGUF files, here and in llama.cpp |
//! | [`export_gguf_lora`] | an adapter as a GGUF file | llama.cpp, Ollama |
//! | [`export_mlx`] | a folder with safetensors, optionally quantised | mlx-lm, LM Studio |
//! | [`export_adapter`] | a PEFT folder | PEFT |
//! | [`export_mlx_adapter`] | an adapter as a folder | mlx-lm |
//!
//! The weights are written one tensor at a time to a file or folder beside the target, which is then renamed: a crash or a
//! full disk leaves the target as it was. The module [`target`] decides what an export may replace.
//!
//! The crate stands between `burnish-lora`, whose adapters it writes, and `burnish-recipes`, which calls it:
//!
//! ```text
//! burnish-kernels -> burnish-models -> burnish-lora -> burnish-export -> burnish-recipes
//! ```
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burnish_export::{GgufOptions, GgufType, HuggingFaceOptions, Mixture, export_gguf, export_hugging_face};
//! use burnish_lora::MergedCheckpoint;
//! use burnish_models::Pretrained;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Pretrained::open("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let merged = MergedCheckpoint::of(&base, Path::new("run/adapter"))?;
//! export_hugging_face(&base, &merged, Path::new("merged"), &HuggingFaceOptions::default())?;
//! let options = GgufOptions { kind: GgufType::Quantized(Mixture::Q4KM), ..GgufOptions::default() };
//! let report = export_gguf(&base, &merged, Path::new("merged.gguf"), &options)?;
//! println!("{} bytes", report.bytes);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod chat_templates;
mod counted_file;
pub mod error;
mod fit;
pub mod gguf;
pub mod hub;
pub mod hugging_face;
pub mod mlx;
pub mod model_card;
pub mod modelfile;
mod one_scale;
pub mod peft;
pub mod report;
pub mod safetensors;
pub mod target;

pub use burnish_models::FloatType;
pub use error::{ExportError, Result};
pub use gguf::{
    GgufLoraOptions, GgufOptions, GgufType, ImportanceMatrix, MeasuredInputs, Mixture, export_gguf, export_gguf_lora,
    quantize_gguf,
};
pub use hub::{HubError, HubUpload};
pub use hugging_face::{HuggingFaceOptions, export_hugging_face};
pub use mlx::{MlxAdapterOptions, MlxFit, MlxOptions, MlxQuantisation, MlxType, export_mlx, export_mlx_adapter};
pub use model_card::ModelCard;
pub use modelfile::{Holds, check_modelfile, write_modelfile};
pub use peft::export_adapter;
pub use report::ExportReport;
pub use safetensors::{write_safetensors, write_safetensors_file};
