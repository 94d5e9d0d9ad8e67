//! Reads JSON files.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::encoding::text_of;
use crate::error::{ModelError, Result};
use crate::json::{MOST_OF_CONFIG, check_size};

/// The contents of a JSON file.
///
/// # Errors
/// If it can't be read or is not JSON.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    let text = text_of(&bytes).map_err(|reason| ModelError::format(path, reason))?;
    check_size(text, MOST_OF_CONFIG).map_err(|reason| ModelError::format(path, reason))?;
    serde_json::from_str(text).map_err(|error| ModelError::format(path, format!("not JSON: {error}")))
}

/// The contents of a JSON file; null if it does not exist.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_if_present(path: &Path) -> Result<Value> {
    match read(path) {
        Err(ModelError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Value::Null),
        other => other,
    }
}
