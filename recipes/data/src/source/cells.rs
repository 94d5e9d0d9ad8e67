//! The cells of a row of a table.

use csv::{ByteRecord, StringRecord};
use serde_json::{Map, Value};

use crate::format::LABELS;

/// Columns whose cells are lists or objects, written as JSON.
const NESTED: [&str; 12] = [
    "messages",
    "conversations",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "tools",
    "history",
    "input_ids",
    "labels",
    "attention_mask",
    "completion_mask",
];

/// The keys and values of a row.
pub(super) fn object(names: &StringRecord, record: &ByteRecord) -> Result<Map<String, Value>, String> {
    if record.len() != names.len() {
        return Err(format!("it has {} cells, but there are {} columns", record.len(), names.len()));
    }
    let mut object = Map::new();
    for (name, cell) in names.iter().zip(record) {
        let text = std::str::from_utf8(cell).map_err(|error| {
            let at = error.valid_up_to();
            format!("`{name}` is not UTF-8: its byte {} is {:#04x}", at + 1, cell[at])
        })?;
        if !text.is_empty() {
            object.insert(name.to_owned(), value(name, text));
        }
    }
    Ok(object)
}

/// A cell as JSON where it is a list, an object or a truth value and its column may have such, else as text.
fn value(name: &str, text: &str) -> Value {
    if LABELS.contains(&name)
        && let Ok(label) = text.trim().to_lowercase().parse::<bool>()
    {
        return label.into();
    }
    let is_nested = NESTED.contains(&name) && text.trim_start().starts_with(['[', '{']);
    let parsed = is_nested.then(|| burnish_models::json::parse(text).ok()).flatten();
    parsed.filter(|value| value.is_array() || value.is_object()).unwrap_or_else(|| Value::String(text.to_owned()))
}
