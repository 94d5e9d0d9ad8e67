//! What can go wrong with an adapter.

use std::path::PathBuf;

/// Errors of attaching, reading and writing adapters.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
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
        /// What is wrong.
        reason: String,
    },
    /// The configuration asks for something impossible.
    #[error("adapter: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// No linear layer has a name that was asked for.
    #[error("no linear layer is named {}; the model has {}", missing.join(", "), present.join(", "))]
    NoTarget {
        /// Names without a layer.
        missing: Vec<String>,
        /// Names that exist.
        present: Vec<String>,
    },
    /// The adapter was made for another model; all misfits are listed.
    #[error("the adapter in {} does not fit this model:\n  {}", path.display(), problems.join("\n  "))]
    Misfit {
        /// The adapter's folder.
        path: PathBuf,
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// The adapter has parts that are not LoRA on linear layers of the blocks; all of them are listed.
    #[error("the adapter in {} has parts that are not supported:\n  {}", path.display(), problems.join("\n  "))]
    Unsupported {
        /// The adapter's folder.
        path: PathBuf,
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] burnish_models::atomic::WriteError),
    /// Reading the base model failed.
    #[error(transparent)]
    Model(#[from] burnish_models::ModelError),
}

impl LoraError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into() }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, LoraError>;
