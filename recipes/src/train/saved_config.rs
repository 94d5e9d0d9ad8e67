//! The configuration that a run saves in its folder and in its checkpoints.

use std::fs;
use std::path::Path;

use toml::Table;

/// The name of the file.
pub(super) const CONFIG: &str = "config.toml";

/// Reads the configuration of a run; `None` if the file is something else.
pub(super) fn run_config(path: &Path) -> Option<Table> {
    let table: Table = toml::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let is_run = ["output_dir", "fine_tune_type", "resume"].iter().all(|key| table.contains_key(*key));
    is_run.then_some(table)
}
