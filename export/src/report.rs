//! The report of an export.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// What an export wrote.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportReport {
    /// The target.
    pub path: PathBuf,
    /// The size of all files in bytes.
    pub bytes: u64,
    /// The number of tensors of each storage type.
    pub tensors: BTreeMap<String, usize>,
    /// Notes for the user, such as what the format can't hold.
    pub notes: Vec<String>,
}

impl ExportReport {
    /// Counts tensors by their types.
    pub(crate) fn count<'a>(&mut self, types: impl Iterator<Item = &'a str>) {
        for kind in types {
            *self.tensors.entry(kind.to_owned()).or_default() += 1;
        }
    }
}
