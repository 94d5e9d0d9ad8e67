//! Finds and reads rows: in a file, in a folder, or on the hub.

mod cells;
mod failure;
mod input;
mod magic;
mod passages;
mod piece;
mod split;
mod table;
mod unpack;

use std::path::Path;

use serde_json::Value;

use super::error::DataError;
use super::format::{Columns, Row};
use super::hub;
use super::parts::{DOCUMENTS, EXTENSIONS, Sources, TEST, TRAIN, VALID};
pub(crate) use input::Position;
pub(crate) use piece::Piece;

use failure::Failure;
use input::Input;
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
            let extensions = || EXTENSIONS.iter().chain(DOCUMENTS);
            let files = names.iter().flat_map(|name| extensions().map(move |extension| format!("{name}.{extension}")));
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
    let file =
        EXTENSIONS.iter().chain(DOCUMENTS).any(|known| data.strip_suffix(known).is_some_and(|stem| stem.ends_with('.')));
    file || data.starts_with(['.', '/', '~']) || data.contains('\\') || data.split('/').count() > 2 || data.ends_with('/')
}

/// Reads the rows of a file in order; `take` gets the first line of each, from 1, and the row or its error.
///
/// Only a few rows are in memory at a time. A file named `.csv` or `.tsv` is a table, and one named `.txt` or `.md` a document, which
/// becomes a row for each part of it. A file that begins with `[` is one JSON list
/// of rows. Any other file has one row per line, or consists of rows of several lines each, which are then read as a whole; empty lines are
/// skipped. Files may be compressed by gzip or zstd, whatever their name.
///
/// # Errors
/// When the file can't be read or has no rows, and the errors of `take`.
pub fn read_rows(
    file: &Path,
    mut take: impl FnMut(usize, Result<Row, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let columns = Columns::default();
    pieces(file, &Position::default(), &mut |piece| {
        let line = piece.line;
        take(line, piece.row(&columns))
    })
}

/// Reads the JSON values of a file of rows of any other kind, as [`read_rows`] does; `take` gets the first line of each, from 1.
///
/// # Errors
/// As [`read_rows`]. Tables and documents are refused.
pub fn read_values(
    file: &Path,
    mut take: impl FnMut(usize, Result<Value, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    pieces(file, &Position::default(), &mut |piece| match piece.other_kind() {
        Some(found) => {
            let way = "write each row as a JSON object on a line of its own";
            Err(DataError::Binary { file: file.to_owned(), found, way })
        }
        None => take(piece.line, piece.value()),
    })
}

/// Gives the parts of a file that should be rows to `take`, in order.
pub(crate) fn pieces<E: From<DataError>>(
    file: &Path,
    position: &Position,
    take: &mut dyn FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut rows = 0;
    let mut take = |piece| {
        rows += 1;
        take(piece).map_err(Failure::Taking)
    };
    let read = pieces_of(file, position, &mut take);
    let file = file.to_owned();
    match read {
        Ok(()) if rows == 0 => Err(DataError::Empty { file }.into()),
        Ok(()) => Ok(()),
        Err(Failure::Io(source)) => Err(DataError::Io { file, source }.into()),
        Err(Failure::Table(reason)) => Err(DataError::Row { file, line: 1, reason }.into()),
        Err(Failure::Binary(found, way)) => Err(DataError::Binary { file, found, way }.into()),
        Err(Failure::Taking(error)) => Err(error),
    }
}

fn pieces_of<E>(
    file: &Path,
    position: &Position,
    take: &mut dyn FnMut(Piece) -> Result<(), Failure<E>>,
) -> Result<(), Failure<E>> {
    let Input { head, rest } = Input::open(file, position)?;
    if let Some((found, way)) = magic::other_kind(&head) {
        return Err(Failure::Binary(found, way));
    }
    if let Some(is_markdown) = passages::kind(file) {
        return passages::pieces(rest, is_markdown, take);
    }
    match Table::of(file) {
        Some(table) => table.pieces(rest, take),
        None => split::pieces(rest, take),
    }
}

#[cfg(test)]
mod tests;
