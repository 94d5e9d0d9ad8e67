//! Tables: CSV and TSV files, whose first line names the columns.

use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::unpack::plain_name;
use crate::format::{LABELS, Row};

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

/// A row or its error, and its first line.
type NumberedRow = (usize, Result<Row, String>);

/// A kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Cells apart by commas, or by semicolons where only those are in the first line.
    Csv,
    /// Cells apart by tabs.
    Tsv,
}

impl Table {
    /// The kind of a file, by its name.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_string_lossy();
        match plain_name(&name).rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }

    fn delimiter(self, bytes: &[u8]) -> u8 {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match self {
            Self::Tsv => b'\t',
            Self::Csv if first.contains(&b';') && !first.contains(&b',') => b';',
            Self::Csv => b',',
        }
    }

    /// The rows of a file, each with its first line, from 1. An empty cell is an absent key, as for `load_dataset("csv")` of datasets.
    ///
    /// # Errors
    /// If the names of the columns can't be used.
    pub(super) fn rows(self, bytes: &[u8]) -> Result<Vec<NumberedRow>, String> {
        let mut reader = ReaderBuilder::new().delimiter(self.delimiter(bytes)).flexible(true).from_reader(bytes);
        let names = reader.byte_headers().map_err(|error| error.to_string())?.clone();
        let names =
            StringRecord::from_byte_record(names).map_err(|_| "the names of the columns are not UTF-8".to_owned())?;
        if let Some(name) =
            names.iter().enumerate().find_map(|(at, name)| names.iter().take(at).find(|other| *other == name))
        {
            return Err(format!("two columns are named `{name}`"));
        }
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.map_err(|error| error.to_string())?;
            let line = record.position().map_or(0, |position| position.line() as usize);
            rows.push((line, row(&names, &record)));
        }
        Ok(rows)
    }
}

fn row(names: &StringRecord, record: &ByteRecord) -> Result<Row, String> {
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
    Row::from_value(Value::Object(object))
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
