//! What can be wrong with a configuration.

use std::path::PathBuf;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The file is not valid TOML or YAML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// An unknown key.
    #[error("{place}unknown key `{key}`")]
    UnknownKey {
        /// The file, or empty for a flag.
        place: String,
        /// The key.
        key: String,
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// A value that is wrong or not supported.
    #[error("{place}`{key}` {reason}")]
    Value {
        /// The file, or empty for a flag.
        place: String,
        /// The key.
        key: String,
        /// Why it is refused; follows the key.
        reason: String,
    },
    /// Several errors at once.
    #[error("{}", problems.join("\n  "))]
    Problems {
        /// One sentence each.
        problems: Vec<String>,
    },
}
