//! Errors of this crate.

use std::path::PathBuf;

/// Errors of reading models, tokenizers and chat templates.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file is malformed.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the value.
        reason: String,
    },
    /// A key of the configuration is missing, contradicts another, or asks for something that is not supported.
    #[error("config: {reason}")]
    Config {
        /// What is wrong, with the key and its value.
        reason: String,
    },
    /// No family has this `model_type`.
    #[error("unknown model type `{model_type}`; expected one of {known}")]
    UnknownModelType {
        /// The `model_type` of the checkpoint.
        model_type: String,
        /// The supported ones.
        known: String,
    },
    /// No family has this GGUF architecture.
    #[error("unknown GGUF architecture `{architecture}`; expected one of {known}")]
    UnknownArchitecture {
        /// The `general.architecture` of the file.
        architecture: String,
        /// The supported ones.
        known: String,
    },
    /// Tensors are missing or have other shapes than the configuration says.
    #[error("the checkpoint does not fit the model:\n  {}", problems.join("\n  "))]
    Mismatch {
        /// One line per tensor, all of them.
        problems: Vec<String>,
    },
    /// A weight is outside the range of f16.
    #[error("`{tensor}` has the weight {value}, but the largest value of f16 is 65504")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The weight.
        value: f32,
    },
    /// A folder holds something other than a model, or a model in a format that is not supported.
    #[error("{} {reason}", path.display())]
    Unsupported {
        /// The folder or the hub id.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A folder holds an adapter, but a model is expected.
    #[error(
        "{}: expected a model, got {} {format} adapter{}",
        path.display(),
        if *format == "MLX" { "an" } else { "a" },
        base.as_ref().map(|base| format!(" of the model {base}")).unwrap_or_default()
    )]
    IsAdapter {
        /// The folder or the hub id.
        path: PathBuf,
        /// The model that it was trained on, if the adapter says so.
        base: Option<String>,
        /// The format that it is in: PEFT, MLX or GGUF.
        format: &'static str,
    },
    /// The model computed logits that are NaN or infinite.
    #[error("the model computed logits that are NaN or infinite")]
    NonFinite,
    /// The tokenizer can't be built, or can't encode or decode something.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// The chat template does not compile, or it can't render the messages.
    #[error("chat template: {reason}")]
    Template {
        /// What is wrong.
        reason: String,
    },
    /// The model has no chat template.
    #[error("the model has no chat template")]
    NoTemplate,
    /// A repository of the hub can't be fetched.
    #[error("{id}: {reason}")]
    Hub {
        /// The id of the repository.
        id: String,
        /// What is wrong.
        reason: String,
        /// What the user can do about it, if that is known.
        way: Option<String>,
    },
}

impl ModelError {
    /// [`ModelError::Io`] for a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// [`ModelError::Format`] for a path.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into() }
    }
}

/// A result with the error of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;
