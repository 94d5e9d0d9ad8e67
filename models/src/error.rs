//! What can go wrong with a model on disk.

use std::path::PathBuf;

/// Errors of reading models, tokenizers and templates.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A file is not what it claims to be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the values.
        reason: String,
    },
    /// The configuration lacks something or contradicts itself.
    #[error("config: {reason}")]
    Config {
        /// What is wrong, with the key.
        reason: String,
    },
    /// A model type without a family here.
    #[error("unknown model type `{model_type}`; known are {known}")]
    UnknownModelType {
        /// What the checkpoint asks for.
        model_type: String,
        /// What is built in.
        known: String,
    },
    /// A GGUF architecture without a family here.
    #[error("unknown GGUF architecture `{architecture}`; known are {known}")]
    UnknownArchitecture {
        /// What the file asks for.
        architecture: String,
        /// What is built in.
        known: String,
    },
    /// Tensors are missing or have other shapes; all of them are listed.
    #[error("the checkpoint does not fit the model:\n  {}", problems.join("\n  "))]
    Misfit {
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// A weight that the dtype does not hold.
    #[error("`{tensor}` has the weight {value}, and f16 holds at most 65504")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// Its weight.
        value: f32,
    },
    /// A folder of another kind, or in a format that is not read.
    #[error("{} {reason}", path.display())]
    Unsupported {
        /// The folder or the hub id.
        path: PathBuf,
        /// What it is, and the way out.
        reason: String,
    },
    /// An adapter where a model is expected.
    #[error(
        "{} is {}, not a model{}",
        path.display(),
        if *is_mlx { "an MLX adapter" } else { "a PEFT adapter" },
        base.as_ref().map(|base| format!("; it belongs to {base}")).unwrap_or_default()
    )]
    IsAdapter {
        /// The folder or the hub id.
        path: PathBuf,
        /// The model that it was trained on, where it says so.
        base: Option<String>,
        /// Whether mlx-lm wrote it.
        is_mlx: bool,
    },
    /// The tokenizer can't be built or refuses a text.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// The chat template is wrong or refuses the messages.
    #[error("chat template: {reason}")]
    Template {
        /// What is wrong.
        reason: String,
    },
    /// The model has no chat template.
    #[error("this model has no chat template")]
    NoTemplate,
    /// A hub repository can't be fetched.
    #[error("{id}: {reason}")]
    Hub {
        /// The repository.
        id: String,
        /// What the hub or the network said.
        reason: String,
    },
}

impl ModelError {
    /// An input or output error of a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A malformed file.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into() }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;
