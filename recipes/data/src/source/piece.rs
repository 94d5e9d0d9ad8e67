//! A part of a file that should be a row.

use std::str::Utf8Error;
use std::sync::Arc;

use burnish_models::json;
use csv::{ByteRecord, StringRecord};
use serde_json::{Map, Value};

use super::cells;
use crate::format::{Columns, Row};

/// A part of a file that should be a row.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its first line, or its number in a file of columns, from 1.
    pub(crate) line: usize,
    content: Content,
}

/// What is read of a row before it is parsed, which takes longer than reading.
#[derive(Debug)]
enum Content {
    Json(Vec<u8>),
    Cells(Arc<StringRecord>, ByteRecord),
    /// Values of columns, and about the memory that they take.
    Fields(Map<String, Value>, usize),
    Passage {
        bytes: Vec<u8>,
        is_markdown: bool,
        is_last: bool,
    },
    /// What is wrong with the file here.
    Bad(String),
}

impl Piece {
    pub(super) fn json(line: usize, bytes: &[u8]) -> Self {
        Self { line, content: Content::Json(bytes.to_vec()) }
    }

    pub(super) fn cells(line: usize, names: Arc<StringRecord>, cells: ByteRecord) -> Self {
        Self { line, content: Content::Cells(names, cells) }
    }

    /// A row of a file of columns, which takes so many bytes.
    pub(super) fn fields(number: usize, fields: Map<String, Value>, bytes: usize) -> Self {
        Self { line: number, content: Content::Fields(fields, bytes) }
    }

    /// A part of a document.
    pub(super) fn passage(line: usize, bytes: &[u8], is_markdown: bool, is_last: bool) -> Self {
        Self { line, content: Content::Passage { bytes: bytes.to_vec(), is_markdown, is_last } }
    }

    pub(super) fn bad(line: usize, reason: &str) -> Self {
        Self { line, content: Content::Bad(reason.to_owned()) }
    }

    /// About the memory that it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        match &self.content {
            Content::Json(bytes) | Content::Passage { bytes, .. } => bytes.len(),
            Content::Cells(_, cells) => cells.as_slice().len(),
            Content::Fields(_, bytes) => *bytes,
            Content::Bad(reason) => reason.len(),
        }
    }

    /// What its file is, if its rows are not JSON.
    pub(super) fn other_kind(&self) -> Option<&'static str> {
        match self.content {
            Content::Json(_) | Content::Fields(..) | Content::Bad(_) => None,
            Content::Cells(..) => Some("it is a table"),
            Content::Passage { .. } => Some("it is a document"),
        }
    }

    /// Parses the row.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub(crate) fn row(self, columns: &Columns) -> Result<Row, String> {
        if let Content::Passage { bytes, is_markdown, is_last } = self.content {
            return Ok(Row::Passage { text: text(bytes)?, is_markdown, is_last });
        }
        Row::from_value(columns.applied(self.value()?)?)
    }

    /// Parses the row as a JSON value of any kind.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub(super) fn value(self) -> Result<Value, String> {
        match self.content {
            Content::Json(bytes) => parsed(without_mark(&bytes)),
            Content::Cells(names, cells) => Ok(Value::Object(cells::object(&names, &cells)?)),
            Content::Fields(fields, _) => Ok(Value::Object(fields)),
            Content::Passage { bytes, .. } => text(bytes).map(Value::String),
            Content::Bad(reason) => Err(reason),
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| not_utf_8(&error.utf8_error(), error.as_bytes()))
}

fn parsed(bytes: &[u8]) -> Result<Value, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => json::parse(text).map_err(|error| {
            let damaged = bytes.contains(&0);
            if damaged {
                "not JSON: it has zero bytes, so the file is damaged".to_owned()
            } else {
                format!("not JSON: {error}")
            }
        }),
        Err(error) => Err(not_utf_8(&error, bytes)),
    }
}

fn not_utf_8(error: &Utf8Error, bytes: &[u8]) -> String {
    let (at, byte) = (error.valid_up_to(), bytes[error.valid_up_to()]);
    format!(
        "not UTF-8: its byte {} is {byte:#04x}; if the text is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 FILE > rows.jsonl",
        at + 1
    )
}

/// Strips a byte order mark. Concatenated files have one before the rows of each.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}
