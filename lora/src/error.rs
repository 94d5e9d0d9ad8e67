//! Errors of this crate.

use std::path::PathBuf;

/// Errors of attaching, reading and writing adapters.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file is malformed, or a folder is not an adapter.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the value.
        reason: String,
    },
    /// A value of the configuration is out of range.
    #[error("adapter: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// A target names no linear layer.
    #[error("no linear layer is named {}; the model has {}", missing.join(", "), present.join(", "))]
    NoTarget {
        /// The targets that name no layer.
        missing: Vec<String>,
        /// The names of the linear layers of a block.
        present: Vec<String>,
    },
    /// The adapter was trained on another model.
    #[error("the adapter in {} does not fit this model:\n  {}", path.display(), problems.join("\n  "))]
    Mismatch {
        /// The folder of the adapter.
        path: PathBuf,
        /// One line per tensor, all of them.
        problems: Vec<String>,
    },
    /// The adapter has tensors that are not factors of linear layers.
    #[error("the adapter in {} has tensors that are not supported:\n  {}", path.display(), problems.join("\n  "))]
    Unsupported {
        /// The folder of the adapter.
        path: PathBuf,
        /// One line per tensor, all of them.
        problems: Vec<String>,
    },
    /// The adapter can't be written.
    #[error(transparent)]
    Write(#[from] burnish_models::atomic::WriteError),
    /// The base model can't be read.
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

/// A result with the error of this crate.
pub type Result<T> = std::result::Result<T, LoraError>;
