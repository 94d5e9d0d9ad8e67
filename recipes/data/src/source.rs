//! Finds and reads rows: in a file, in a folder, or on the hub.

mod magic;
mod split;
mod table;
mod unpack;

use std::path::Path;

use burnish_models::json;
use serde_json::Value;

use super::error::DataError;
use super::format::Row;
use super::hub;
use super::parts::{EXTENSIONS, Sources, TEST, TRAIN, VALID};
use table::Table;

/// What to do with a bad row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadRows {
    /// Stop with an error that has its file, line and reason.
    #[default]
    Stop,
    /// Skip and count it.
    Skip,
}

impl Sources {
    /// Finds the files behind `data`: a file of rows, a folder with `train.jsonl` and perhaps `valid.jsonl` and `test.jsonl`, or the id of
    /// a hub data set. Instead of `.jsonl`, files may be `.json`, `.csv` or `.tsv`, and each of them compressed (`.gz`, `.zst`).
    ///
    /// # Errors
    /// [`DataError::NotFound`] when it is none of these, [`DataError::Hub`] when the hub fails.
    pub fn locate(data: &str) -> Result<Self, DataError> {
        let path = Path::new(data);
        if path.is_file() {
            return Ok(Self { train: Some(path.to_owned()), ..Self::default() });
        }
        if path.is_dir() {
            return Self::of_folder(path);
        }
        if looks_like_path(data) {
            return Err(DataError::NotFound { name: data.to_owned(), reason: "no such file or folder".to_owned() });
        }
        hub::fetch(data)
    }

    fn of_folder(folder: &Path) -> Result<Self, DataError> {
        let find = |names: &[&str]| {
            let files = names.iter().flat_map(|name| EXTENSIONS.iter().map(move |extension| format!("{name}.{extension}")));
            files.map(|file| folder.join(file)).find(|path| path.is_file())
        };
        let found = Self { train: find(TRAIN), valid: find(VALID), test: find(TEST) };
        if found == Self::default() {
            let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let other = names.filter(|name| TRAIN.iter().any(|stem| name.starts_with(stem))).min();
            let other = other.map_or_else(String::new, |name| format!("; `{name}` is not supported"));
            let reason = format!("the folder has no train.jsonl, valid.jsonl or test.jsonl{other}");
            return Err(DataError::NotFound { name: folder.display().to_string(), reason });
        }
        Ok(found)
    }
}

/// Hub ids are `owner/name` or `name`; anything else that doesn't exist is a misspelt path.
fn looks_like_path(data: &str) -> bool {
    let file = EXTENSIONS.iter().any(|known| data.strip_suffix(known).is_some_and(|stem| stem.ends_with('.')));
    file || data.starts_with(['.', '/', '~']) || data.contains('\\') || data.split('/').count() > 2 || data.ends_with('/')
}

/// Reads the rows of a file in order; `take` gets the first line of each, from 1, and the row or its error.
///
/// A file named `.csv` or `.tsv` is a table. A file that begins with `[` is one JSON list of rows. Any other file has one row per line, or
/// consists of rows of several lines each; empty lines are skipped. Files may be compressed by gzip or zstd, whatever their name.
///
/// # Errors
/// When the file can't be read or has no rows, and the errors of `take`.
pub fn read_rows(
    file: &Path,
    mut take: impl FnMut(usize, Result<Row, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let bytes = contents(file)?;
    let bytes = without_mark(&bytes);
    let mut rows = 0;
    if let Some(table) = Table::of(file) {
        let refuse = |reason| DataError::Row { file: file.to_owned(), line: 1, reason };
        for (line, row) in table.rows(bytes).map_err(refuse)? {
            rows += 1;
            take(line, row)?;
        }
    } else {
        for piece in split::pieces(bytes) {
            rows += 1;
            take(piece.line, piece.bytes.map(without_mark).and_then(row))?;
        }
    }
    if rows == 0 { Err(DataError::Empty { file: file.to_owned() }) } else { Ok(()) }
}

/// Reads the JSON values of a file of rows of any other kind, as [`read_rows`] does; `take` gets the first line of each, from 1.
///
/// # Errors
/// As [`read_rows`]. Tables are refused.
pub fn read_values(
    file: &Path,
    mut take: impl FnMut(usize, Result<Value, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let bytes = contents(file)?;
    if Table::of(file).is_some() {
        let way = "write each row as a JSON object on a line of its own";
        return Err(DataError::Binary { file: file.to_owned(), found: "it is a table", way });
    }
    let mut rows = 0;
    for piece in split::pieces(without_mark(&bytes)) {
        rows += 1;
        let value = |text: &str| json::parse(text).map_err(|error| format!("not JSON: {error}"));
        take(piece.line, piece.bytes.map(without_mark).and_then(|bytes| text(bytes).and_then(value)))?;
    }
    if rows == 0 { Err(DataError::Empty { file: file.to_owned() }) } else { Ok(()) }
}

/// The bytes of a file of text, unpacked.
fn contents(file: &Path) -> Result<Vec<u8>, DataError> {
    let bytes = std::fs::read(file).and_then(unpack::unpacked);
    let bytes = bytes.map_err(|source| DataError::Io { file: file.to_owned(), source })?;
    match magic::other_kind(&bytes) {
        Some((found, way)) => Err(DataError::Binary { file: file.to_owned(), found, way }),
        None => Ok(bytes),
    }
}

fn row(bytes: &[u8]) -> Result<Row, String> {
    Row::from_json(text(bytes)?).map_err(|reason| {
        let damaged = bytes.contains(&0);
        if damaged { "not JSON: it has zero bytes, so the file is damaged".to_owned() } else { reason }
    })
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (at, byte) = (error.valid_up_to(), bytes[error.valid_up_to()]);
        format!(
            "not UTF-8: its byte {} is {byte:#04x}; if the text is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 FILE > rows.jsonl",
            at + 1
        )
    })
}

/// Strips a byte order mark. Concatenated files have one before the rows of each.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
