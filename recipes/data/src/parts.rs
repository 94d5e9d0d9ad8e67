//! The parts of a data set: training, validation and test rows.

use std::path::PathBuf;

/// The files of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Training rows.
    pub train: Option<PathBuf>,
    /// Rows for validation during training.
    pub valid: Option<PathBuf>,
    /// Rows for evaluation after training.
    pub test: Option<PathBuf>,
}

// Names of each part's file, without its extension.
pub(super) const TRAIN: &[&str] = &["train", "train-00000-of-00001"];
pub(super) const VALID: &[&str] = &["valid", "validation", "val", "dev", "validation-00000-of-00001"];
pub(super) const TEST: &[&str] = &["test", "test-00000-of-00001"];
/// Extensions of documents.
pub(super) const DOCUMENTS: &[&str] = &["txt", "md", "markdown", "txt.gz", "md.gz", "txt.zst", "md.zst"];
pub(super) const EXTENSIONS: &[&str] = &[
    "jsonl",
    "json",
    "csv",
    "tsv",
    "jsonl.gz",
    "json.gz",
    "csv.gz",
    "tsv.gz",
    "jsonl.zst",
    "json.zst",
    "csv.zst",
    "tsv.zst",
];
