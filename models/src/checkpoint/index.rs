//! The file that says which shard has which tensor.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::json_file;

/// The tensors that an index lists.
pub(crate) fn tensor_names(index: &Path) -> Result<Vec<String>> {
    Ok(weight_map(index)?.into_iter().map(|(tensor, _)| tensor).collect())
}

fn weight_map(index: &Path) -> Result<Map<String, Value>> {
    let mut json = json_file::read(index)?;
    match json.get_mut("weight_map").map(Value::take) {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(ModelError::format(index, "`weight_map` is missing")),
    }
}

/// The files that an index names. Each must lie in the folder itself.
pub(crate) fn shard_paths(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let map = weight_map(index)?;
    let mut names: Vec<&str> = Vec::new();
    for (tensor, file) in &map {
        let file =
            file.as_str().ok_or_else(|| ModelError::format(index, format!("`{tensor}`: expected the name of a file")))?;
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(ModelError::format(index, format!("`{tensor}` points outside the folder: {file}")));
        }
        names.push(file);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(ModelError::format(index, "`weight_map` is empty"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
