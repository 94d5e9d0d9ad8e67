//! What was written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// Files, sizes and remarks of an export.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportReport {
    /// Where.
    pub path: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors by storage type.
    pub tensors: BTreeMap<String, usize>,
    /// What the user should know.
    pub notes: Vec<String>,
}
