//! Leave with a file: Hugging Face folders and GGUF files that other programs open.
//!
//! Everything is written tensor by tensor to a place beside the target and then renamed, so that a crash or a full
//! disk leaves what was there before. What an export may replace, [`place`] says.

#![warn(missing_docs)]

mod chat_templates;
pub mod error;
pub mod float;
pub mod gguf;
pub mod hugging_face;
pub mod peft;
pub mod place;
pub mod report;
pub mod safetensors;

pub use error::{ExportError, Result};
pub use float::FloatType;
pub use gguf::{GgufOptions, GgufType, export_gguf};
pub use hugging_face::{HuggingFaceOptions, export_hugging_face};
pub use peft::export_adapter;
pub use report::ExportReport;
pub use safetensors::{write_safetensors, write_safetensors_file};
