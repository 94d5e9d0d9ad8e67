//! Errors of this crate.

use std::path::PathBuf;

/// Errors of writing models and adapters.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The target exists, and the options don't allow replacing it.
    #[error("{} already exists", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target is something that an export never replaces.
    #[error("{} {reason}", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// The target can't be written.
    #[error(transparent)]
    Write(#[from] burnish_models::atomic::WriteError),
    /// A matrix is in few bits already, and the options don't allow quantising it again.
    #[error("{}: `{tensor}` is in {from} already, and quantising it again to {to} adds to its errors", path.display())]
    Requantizes {
        /// The model.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        from: &'static str,
        /// The type that was asked for.
        to: &'static str,
    },
    /// The format can't represent something of the model.
    #[error("{reason}")]
    Unsupported {
        /// What it is, and why.
        reason: String,
    },
    /// The model can't be read, or a weight is outside the range of the type that it is stored in.
    #[error(transparent)]
    Model(#[from] burnish_models::ModelError),
    /// A weight can't be quantised.
    #[error(transparent)]
    Pack(#[from] burnish_kernels::packed::PackError),
    /// The files can't be uploaded.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The adapter can't be read or written.
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

/// A result with the error of this crate.
pub type Result<T> = std::result::Result<T, ExportError>;
