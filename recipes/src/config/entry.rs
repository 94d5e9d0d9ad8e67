//! The keys of a file, or of the command line, as they were written.

use serde_json::{Map, Value};

/// A key as the user wrote it.
pub(super) struct Entry {
    /// As written, with its section.
    pub shown: String,
    /// In snake case.
    pub name: String,
    pub value: Value,
}

impl Entry {
    /// A key that no user wrote.
    pub fn new(name: &str, value: Value) -> Self {
        Self { shown: name.to_owned(), name: name.to_owned(), value }
    }
}

/// Sections of `unsloth train -c`. Keys in such a table are read as if they were at the top level.
pub(super) const SECTIONS: [&str; 4] = ["data", "training", "lora", "logging"];

/// The keys of a file, sections flattened.
pub(super) fn entries(map: Map<String, Value>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (key, value) in map {
        let name = key.replace('-', "_");
        match value {
            Value::Object(section) if SECTIONS.contains(&key.as_str()) => {
                entries.push(Entry { shown: key.clone(), name, value: Value::Null });
                let inner = |(inner, value): (String, Value)| Entry {
                    shown: format!("{key}.{inner}"),
                    name: inner.replace('-', "_"),
                    value,
                };
                entries.extend(section.into_iter().map(inner));
            }
            value => entries.push(Entry { shown: key, name, value }),
        }
    }
    entries
}
