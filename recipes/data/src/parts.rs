//! The parts of a data set: training, validation and test rows.

use std::path::PathBuf;

/// The files of a data set. A part of several files has one name: `train-*-of-00002.parquet`, or a folder that `save_to_disk` of datasets
/// wrote.
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
/// Extensions of files of columns, which can't be compressed as a whole.
pub(super) const COLUMNS: &[&str] = &["parquet", "arrow", "feather"];
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
    "parquet",
    "arrow",
    "feather",
];
