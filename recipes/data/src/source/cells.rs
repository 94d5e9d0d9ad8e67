//! The cells of a row of a table.

use csv::{ByteRecord, StringRecord};
use serde_json::{Map, Value};

use crate::format::LABELS;

/// Columns whose cells are lists or objects, written as JSON.
const NESTED: [&str; 8] =
    ["messages", "conversations", "tools", "history", "input_ids", "labels", "attention_mask", "completion_mask"];

/// Columns whose cells are text, or a list of messages as JSON.
const TEXT_OR_MESSAGES: [&str; 4] = ["prompt", "completion", "chosen", "rejected"];

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

/// A cell as JSON where it is what its column may have besides text.
fn value(name: &str, text: &str) -> Value {
    if LABELS.contains(&name)
        && let Ok(label) = text.trim().to_lowercase().parse::<bool>()
    {
        return label.into();
    }
    let may_be = |start: &[char]| text.trim_start().starts_with(start);
    let parsed = if NESTED.contains(&name) && may_be(&['[', '{']) {
        burnish_models::json::parse(text).ok().filter(|value| value.is_array() || value.is_object())
    } else if TEXT_OR_MESSAGES.contains(&name) && may_be(&['[']) {
        burnish_models::json::parse(text).ok().filter(is_messages)
    } else {
        None
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Whether it is a list of objects with a role. Other JSON is text: an answer may well be a list or an object.
fn is_messages(value: &Value) -> bool {
    let is_message = |message: &Value| message.get("role").is_some() || message.get("from").is_some();
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_message))
}
