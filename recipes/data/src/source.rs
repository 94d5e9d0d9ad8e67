//! Finds and reads rows: in a file, in a folder, or on the hub.

mod arrow;
mod budget;
mod cells;
mod codec;
mod failure;
mod flaw;
mod input;
mod magic;
mod number;
mod parquet;
mod passages;
mod piece;
mod ranged;
mod split;
mod table;
mod unpack;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::DataError;
use super::format::{Columns, Row};
use super::hub;
use super::parts::{COLUMNS, DOCUMENTS, EXTENSIONS, Sources, TEST, TRAIN, VALID};
use super::shards;
pub(crate) use input::Position;
pub(crate) use piece::Piece;

use failure::Failure;
use flaw::Flaw;
use input::Input;
use ranged::Ranged;
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
    /// a hub data set. Instead of `.jsonl`, files may be `.json`, `.csv` or `.tsv`, and each of them compressed (`.gz`, `.zst`), or
    /// `.parquet`, `.arrow` or `.feather`; these may be several, such as `data/train-00000-of-00002.parquet`. A folder may also be one
    /// that `save_to_disk` of datasets wrote.
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
        if looks_like_path(data) || path.exists() {
            // Rows are read more than once, which a pipe can't be.
            let reason = if path.exists() { "it is neither a file nor a folder" } else { "no such file or folder" };
            return Err(DataError::NotFound { name: data.to_owned(), reason: reason.to_owned() });
        }
        hub::fetch(data)
    }

    fn of_folder(folder: &Path) -> Result<Self, DataError> {
        if shards::is_saved(folder) {
            return Ok(Self { train: Some(folder.to_owned()), ..Self::default() });
        }
        let find = |names: &[&str]| {
            let extensions = || EXTENSIONS.iter().chain(DOCUMENTS);
            let files = names.iter().flat_map(|name| extensions().map(move |extension| format!("{name}.{extension}")));
            let file = files.map(|file| folder.join(file)).find(|path| path.is_file());
            let saved = || names.iter().map(|name| folder.join(name)).find(|path| shards::is_saved(path));
            match file.or_else(saved) {
                Some(found) => Ok(Some(found)),
                None => [folder, &folder.join("data")].into_iter().find_map(|folder| sharded(folder, names)).transpose(),
            }
        };
        let found = Self { train: find(TRAIN)?, valid: find(VALID)?, test: find(TEST)? };
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

/// The files of a part in a folder, under one name, if there are several.
fn sharded(folder: &Path, names: &[&str]) -> Option<Result<PathBuf, DataError>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    files.sort();
    let (all, count) = files.iter().find_map(|file| shards::all_of(file, names))?;
    let missing = (0..count).filter_map(|number| shards::one_of(&all, number)).find(|file| !files.contains(file));
    Some(match missing {
        Some(file) => {
            let reason = format!("{file} is missing: there should be {count} such files");
            Err(DataError::NotFound { name: folder.display().to_string(), reason })
        }
        None => Ok(folder.join(all)),
    })
}

/// Hub ids are `owner/name` or `name`; anything else that doesn't exist is a misspelt path.
fn looks_like_path(data: &str) -> bool {
    let file =
        EXTENSIONS.iter().chain(DOCUMENTS).any(|known| data.strip_suffix(known).is_some_and(|stem| stem.ends_with('.')));
    file || data.starts_with(['.', '/', '~']) || data.contains('\\') || data.split('/').count() > 2 || data.ends_with('/')
}

/// Reads the rows of a file in order; `take` gets the first line of each, from 1, and the row or its error.
///
/// Only a few rows are in memory at a time. Parquet and Arrow files are recognised by their first bytes; their rows have no line but a
/// number, which continues in the next file where there are several. A file named `.csv` or `.tsv` is a table, and one named `.txt` or
/// `.md` a document, which becomes a row for each part of it. A file that begins with `[` is one JSON list of rows. Any other file has
/// one row per line, or consists of rows of several lines each, which are then read as a whole; empty lines are skipped. Files that are
/// not of columns may be compressed by gzip or zstd, whatever their name.
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
    for file in shards::files(file).map_err(|source| DataError::Io { file: file.to_owned(), source })? {
        let before = rows;
        let mut take = |mut piece: Piece| {
            rows += 1;
            piece.line += before;
            take(piece).map_err(Failure::Taking)
        };
        pieces_of(&file, position, &mut take).map_err(|failure| error(file, failure))?;
    }
    if rows == 0 { Err(DataError::Empty { file: file.to_owned() }.into()) } else { Ok(()) }
}

fn error<E: From<DataError>>(file: PathBuf, failure: Failure<E>) -> E {
    match failure {
        Failure::Io(source) => DataError::Io { file, source }.into(),
        Failure::Table(reason) => DataError::Row { file, line: 1, reason }.into(),
        Failure::Columns(Flaw::Io(source)) => DataError::Io { file, source }.into(),
        Failure::Columns(Flaw::Damaged(what)) => {
            let way = "copy, download or write the file again".to_owned();
            DataError::Columns { file, reason: format!("the file is damaged: {what}"), way }.into()
        }
        Failure::Columns(Flaw::Unsupported(reason, way)) => DataError::Columns { file, reason, way }.into(),
        Failure::Binary(found, way) => DataError::Binary { file, found, way }.into(),
        Failure::Taking(error) => error,
    }
}

fn pieces_of<E>(
    file: &Path,
    position: &Position,
    take: &mut dyn FnMut(Piece) -> Result<(), Failure<E>>,
) -> Result<(), Failure<E>> {
    if let Some(columns) = Format::of(file)? {
        let file = Ranged::open(file, position)?;
        let mut take = |number, fields, bytes| take(Piece::fields(number, fields, bytes));
        return match columns {
            Format::Parquet => parquet::rows(&file, &mut take),
            Format::Arrow => arrow::rows(&file, &mut take),
        };
    }
    let Input { head, rest } = Input::open(file, position)?;
    if let Some((found, way)) = magic::other_kind(&head) {
        return Err(Failure::Binary(found, way));
    }
    if let Some(name) = of_columns(file).filter(|_| !head.is_empty()) {
        return Err(Flaw::damaged(format!("it is named .{name}, but is no such file")).into());
    }
    if let Some(is_markdown) = passages::kind(file) {
        return passages::pieces(rest, is_markdown, take);
    }
    match Table::of(file) {
        Some(table) => table.pieces(rest, take),
        None => split::pieces(rest, take),
    }
}

/// A format of columns.
enum Format {
    Parquet,
    Arrow,
}

impl Format {
    /// The format of a file, by its first bytes.
    fn of(file: &Path) -> std::io::Result<Option<Self>> {
        let mut start = [0; 8];
        let mut input = std::fs::File::open(file)?;
        let mut length = 0;
        while let count @ 1.. = std::io::Read::read(&mut input, &mut start[length..])? {
            length += count;
        }
        let is_any = |magic: &[&[u8]]| magic.iter().any(|magic| start.starts_with(magic));
        Ok(match () {
            () if is_any(&[parquet::MAGIC, parquet::ENCRYPTED]) => Some(Self::Parquet),
            () if is_any(&[arrow::MAGIC, arrow::CONTINUATION]) => Some(Self::Arrow),
            () => None,
        })
    }
}

/// The extension of a file that should have columns.
fn of_columns(file: &Path) -> Option<&'static str> {
    let name = file.extension()?.to_string_lossy().to_lowercase();
    COLUMNS.iter().find(|known| **known == name).copied()
}

#[cfg(test)]
mod tests;
