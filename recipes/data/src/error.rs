//! What can be wrong with data.

use std::path::PathBuf;

/// Errors of reading and preparing data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// What was read.
        file: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A row can't be used.
    #[error("{}:{line}: {reason}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// The line that the row begins in, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has no rows.
    #[error("{}: the file is empty", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file has rows, but none to learn from.
    #[error("{}: none of {rows} rows can be used{}", file.display(), first.as_ref().map(|reason| format!("; the first: {reason}")).unwrap_or_default())]
    NothingLeft {
        /// The file.
        file: PathBuf,
        /// How many it has.
        rows: usize,
        /// What is wrong with the first bad one.
        first: Option<String>,
    },
    /// `data` names nothing that holds data.
    #[error("{name}: {reason}")]
    NotFound {
        /// What the user gave.
        name: String,
        /// Why it is no data.
        reason: String,
    },
    /// A hub data set can't be fetched.
    #[error("{id}: {reason}")]
    Hub {
        /// The data set.
        id: String,
        /// What the hub or the network said.
        reason: String,
    },
}

impl DataError {
    /// The way out, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Row { reason, .. } if reason.contains("no chat template") => {
                Some("a model without a chat template learns from rows of prompt and completion, or of text")
            }
            Self::Row { .. } => Some("fix the row, or pass --skip-bad-rows to leave such rows out"),
            Self::Empty { .. } => Some("each line is one JSON object, such as {\"text\": \"...\"}"),
            Self::NothingLeft { .. } => Some("rows longer than max_seq_length are cut: raise it if the answers come late"),
            Self::NotFound { .. } => {
                Some("data is a .jsonl or .json file, a folder with train.jsonl, or a hub id such as owner/name")
            }
            Self::Hub { .. } => {
                Some("check the id and the network; HF_TOKEN opens gated data, HF_HUB_OFFLINE=1 uses the cache alone")
            }
            Self::Io { .. } => None,
        }
    }
}
