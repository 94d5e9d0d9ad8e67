//! What can go wrong on the way out.

use std::path::PathBuf;

/// Errors of writing models.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The target exists, and nobody said that it may go.
    #[error("{} exists already", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target is something that an export does not replace, whatever was asked for.
    #[error("{} {reason}", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] burnish_models::atomic::WriteError),
    /// A weight is beyond what f16 holds.
    #[error("`{tensor}` has {value}, which f16 can't hold (its largest is 65504)")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The element.
        value: f32,
    },
    /// The format has no place for something that the model has.
    #[error("{reason}")]
    Unsupported {
        /// What, and why.
        reason: String,
    },
    /// Reading the model failed.
    #[error(transparent)]
    Model(#[from] burnish_models::ModelError),
    /// A weight can't be quantised.
    #[error(transparent)]
    Pack(#[from] burnish_kernels::packed::PackError),
    /// Writing an adapter failed.
    #[error(transparent)]
    Lora(#[from] burnish_lora::LoraError),
}

impl ExportError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported { reason: reason.into() }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, ExportError>;
