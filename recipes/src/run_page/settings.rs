//! The settings of runs: those that differ, and those that are not the default.

use std::collections::BTreeSet;

use serde::Serialize;
use toml::Table;

use super::record::{RunRecord, shown};

/// A key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'a str,
    /// The heading it is listed under.
    pub section: &'a str,
    /// What it does.
    pub help: &'a str,
}

/// A setting of every run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// The heading it is listed under.
    pub section: String,
    /// What it does.
    pub help: String,
    /// Its value in each run; `None` where the run has none.
    pub values: Vec<Option<String>>,
    /// Whether runs differ in it.
    pub differs: bool,
    /// Whether each value is other than the default.
    pub is_chosen: Vec<bool>,
}

/// Keys that say where a run is, and nothing about it.
const PLACES: [&str; 3] = ["output_dir", "resume", "overwrite"];

/// The settings of runs, in the order of the documentation; those that it does not have come last.
pub fn settings(runs: &[RunRecord], known: &[Known<'_>], defaults: &Table) -> Vec<Setting> {
    let names: BTreeSet<&str> = runs.iter().flat_map(|run| run.settings.keys()).map(String::as_str).collect();
    let is_known = |name: &str| known.iter().any(|key| key.name == name);
    let listed = known.iter().copied().filter(|key| names.contains(key.name));
    let others = names.iter().filter(|name| !is_known(name)).map(|name| Known { name, section: "Other", help: "" });
    let setting = |key: Known<'_>| {
        let values: Vec<Option<String>> = runs.iter().map(|run| run.settings.get(key.name).map(shown)).collect();
        let default = defaults.get(key.name).map(shown);
        Setting {
            name: key.name.to_owned(),
            section: key.section.to_owned(),
            help: key.help.trim().to_owned(),
            differs: values.iter().any(|value| *value != values[0]) && !PLACES.contains(&key.name),
            is_chosen: values.iter().map(|value| *value != default).collect(),
            values,
        }
    };
    listed.chain(others).map(setting).collect()
}
