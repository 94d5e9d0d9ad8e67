//! Errors of reading and preparing data.

use std::path::PathBuf;

/// Why data can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file can't be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A row can't be used.
    #[error("{}:{line}: {reason}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// The first line of the row, from 1.
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
    /// The file has rows, but none of them can be used.
    #[error("{}: none of the {rows} rows can be used{}", file.display(), first.as_ref().map(|reason| format!("; the first error: {reason}")).unwrap_or_default())]
    NothingLeft {
        /// The file.
        file: PathBuf,
        /// Number of rows.
        rows: usize,
        /// What is wrong with the first bad row.
        first: Option<String>,
        /// Whether rows were truncated to `max_seq_length`.
        cut: bool,
        /// Whether rows were left out because they are too long.
        left_out: bool,
    },
    /// A file of columns, Parquet or Arrow, can't be used.
    #[error("{}: {reason}", file.display())]
    Columns {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the user can do about it.
        way: String,
    },
    /// The file has an unsupported format.
    #[error("{}: {found}, but rows should be lines of JSON", file.display())]
    Binary {
        /// The file.
        file: PathBuf,
        /// The format found.
        found: &'static str,
        /// How to convert it.
        way: &'static str,
    },
    /// `data` is not a file, a folder or a hub id with data.
    #[error("{name}: {reason}")]
    NotFound {
        /// What the user gave.
        name: String,
        /// Why it is not usable.
        reason: String,
    },
    /// A hub data set can't be fetched.
    #[error("{id}: {reason}")]
    Hub {
        /// The data set.
        id: String,
        /// What the hub or the network said.
        reason: String,
        /// What the user can do about it, if that is known.
        way: Option<String>,
    },
}

impl DataError {
    /// A hint for the user, if there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Row { reason, .. } if reason.contains("no chat template") => {
                Some("without a chat template, use rows with prompt and completion, or with text")
            }
            Self::Row { reason, .. } | Self::NothingLeft { first: Some(reason), .. } if recipe_for(reason).is_some() => {
                recipe_for(reason)
            }
            Self::Row { .. } => Some("fix the row, or use --skip-bad-rows"),
            Self::Empty { .. } => Some("each line is one JSON object, such as {\"text\": \"...\"}"),
            Self::NothingLeft { left_out: true, .. } => {
                Some("rows longer than max_seq_length are left out; raise it, or set length_policy to truncate or split")
            }
            Self::NothingLeft { cut: true, .. } => {
                Some("rows are truncated to max_seq_length; raise it if that cuts off the answers")
            }
            Self::NothingLeft { .. } => {
                Some("a row needs an answer, after at least one token, that its labels, weights and masks do not exclude")
            }
            Self::Columns { way, .. } => Some(way),
            Self::Binary { way, .. } => Some(*way),
            Self::NotFound { .. } => Some(
                "data should be a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, a folder with train.jsonl, or a hub id such \
                 as owner/name",
            ),
            Self::Hub { way: Some(way), .. } => Some(way),
            Self::Hub { way: None, .. } => {
                Some("check the id and the network; set HF_TOKEN for gated data, or HF_HUB_OFFLINE=1 to use only the cache")
            }
            Self::Io { .. } => None,
        }
    }
}

/// The hint for a row that only other recipes learn from, by the reason that tokenising gives.
fn recipe_for(reason: &str) -> Option<&'static str> {
    let hints = [
        ("needs one of the recipes dpo", "`burnish train dpo` learns from such rows, and so do orpo, simpo, cpo and kto"),
        ("the recipe kto", "`burnish train kto` learns from such rows"),
        ("for the recipe sft", "`burnish train sft` learns from such rows"),
        ("a row without either is for sft", "`burnish train sft` learns from such rows"),
    ];
    hints.into_iter().find(|(words, _)| reason.contains(words)).map(|(_, hint)| hint)
}
