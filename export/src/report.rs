//! The report of an export.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// What an export wrote.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportReport {
    /// The target.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// The size of all files in bytes.
    pub bytes: u64,
    /// The number of tensors of each storage type.
    pub tensors: BTreeMap<String, usize>,
    /// Notes for the user, such as what the format can't hold.
    pub notes: Vec<String>,
}

/// Names of files need not be Unicode, but JSON is.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl ExportReport {
    /// Counts tensors by their types.
    pub(crate) fn count<'a>(&mut self, types: impl Iterator<Item = &'a str>) {
        for kind in types {
            *self.tensors.entry(kind.to_owned()).or_default() += 1;
        }
    }
}
