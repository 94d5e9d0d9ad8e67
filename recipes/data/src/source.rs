//! Where rows come from: a file, a folder, or a data set of the hub.

mod split;

use std::path::{Path, PathBuf};

use super::error::DataError;
use super::format::Row;
use super::hub;

/// What to do with a row that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadRows {
    /// End with its file, line and reason.
    #[default]
    Stop,
    /// Leave it out and count it.
    Skip,
}

/// The files of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// What is learned.
    pub train: Option<PathBuf>,
    /// What is evaluated while learning.
    pub valid: Option<PathBuf>,
    /// What is evaluated at the end.
    pub test: Option<PathBuf>,
}

/// Names that the files of each part go by.
pub(super) const TRAIN: &[&str] = &["train"];
pub(super) const VALID: &[&str] = &["valid", "validation", "val", "dev"];
pub(super) const TEST: &[&str] = &["test"];
pub(super) const EXTENSIONS: &[&str] = &["jsonl", "json"];

impl Sources {
    /// Finds the files behind `data`: a `.jsonl` or `.json` file, a folder with `train.jsonl` and perhaps `valid.jsonl`
    /// and `test.jsonl`, or the id of a hub data set.
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
            let reason = "the folder has no train.jsonl, valid.jsonl or test.jsonl".to_owned();
            return Err(DataError::NotFound { name: folder.display().to_string(), reason });
        }
        Ok(found)
    }
}

/// Hub ids are `owner/name` or `name`; anything else that isn't there is a misspelt path.
fn looks_like_path(data: &str) -> bool {
    let file = Path::new(data).extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    file || data.starts_with(['.', '/', '~']) || data.contains('\\') || data.split('/').count() > 2 || data.ends_with('/')
}

/// Reads the rows of a file in order; `take` gets the line that each begins in, from 1, and the row or what is wrong.
///
/// A file that begins with `[` is one JSON list of rows; any other has one row a line, and empty lines count but are not
/// rows. Rows of several lines each are read where the whole file consists of them.
///
/// # Errors
/// When the file can't be read or has no rows, and whatever `take` ends with.
pub fn read_rows(
    file: &Path,
    mut take: impl FnMut(usize, Result<Row, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let bytes = std::fs::read(file).map_err(|source| DataError::Io { file: file.to_owned(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut rows = 0;
    for piece in split::pieces(bytes) {
        rows += 1;
        let row = piece.bytes.and_then(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => Row::from_json(text),
            Err(error) => Err(format!("not UTF-8 after byte {}", error.valid_up_to())),
        });
        take(piece.line, row)?;
    }
    if rows == 0 { Err(DataError::Empty { file: file.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
