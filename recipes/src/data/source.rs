//! Where rows come from: a file, a folder, or a data set of the hub.

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
/// rows.
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
    let mut row = |line: usize, bytes: &[u8]| {
        rows += 1;
        let row = match std::str::from_utf8(bytes) {
            Ok(text) => Row::from_json(text),
            Err(error) => Err(format!("not UTF-8 after byte {}", error.valid_up_to())),
        };
        take(line, row)
    };
    if bytes.trim_ascii_start().starts_with(b"[") {
        for (line, element) in elements(bytes) {
            row(line, element)?;
        }
    } else {
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if !line.trim_ascii().is_empty() {
                row(index + 1, line)?;
            }
        }
    }
    if rows == 0 { Err(DataError::Empty { file: file.to_owned() }) } else { Ok(()) }
}

/// The elements of a JSON list with the lines that they begin in. Each is parsed later by itself, so that an error has a
/// line and one bad element spoils no other.
fn elements(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    let (mut line, mut depth, mut quoted, mut escaped) = (1, 0_usize, false, false);
    let mut start: Option<(usize, usize)> = None;
    let mut close = |start: &mut Option<(usize, usize)>, end: usize| {
        if let Some((line, at)) = start.take() {
            found.push((line, bytes[at..end].trim_ascii_end()));
        }
    };
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' {
            line += 1;
        }
        if depth == 1 && !quoted && start.is_none() && !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']') {
            start = Some((line, at));
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b',' if depth == 1 => close(&mut start, at),
            b']' | b'}' => {
                if depth == 1 {
                    close(&mut start, at);
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
    }
    // What a truncated list ends in is an element too, so that it is an error and not silently lost.
    close(&mut start, bytes.len());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    type NumberedRow = (usize, Result<Row, String>);

    fn rows_of(text: &[u8]) -> Result<Vec<NumberedRow>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, text).unwrap();
        let mut rows = Vec::new();
        read_rows(&file, |line, row| {
            rows.push((line, row));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn lines_are_counted_with_the_empty_ones() {
        let rows = rows_of("\u{feff}{\"text\": \"a\"}\r\n\n{\"text\": \"b\"}\nnonsense".as_bytes()).unwrap();
        let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4]);
        assert_eq!(rows[1].1, Ok(Row::Text("b".into())));
        assert!(rows[2].1.as_ref().unwrap_err().contains("not JSON"));
    }

    #[test]
    fn a_list_of_rows_has_lines_too() {
        let rows = rows_of(b"[\n {\"text\": \"a, [\\\" b\"},\n\n {\"text\":\n \"c\"}, 7\n]").unwrap();
        let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4, 5]);
        assert_eq!(rows[0].1, Ok(Row::Text("a, [\" b".into())));
        assert_eq!(rows[1].1, Ok(Row::Text("c".into())));
        assert!(rows[2].1.is_err());
    }

    #[test]
    fn a_cut_list_loses_nothing_silently() {
        let rows = rows_of(b"[{\"text\": \"a\"}, {\"text\": \"b").unwrap();
        assert!(rows[0].1.is_ok() && rows[1].1.is_err());
    }

    #[test]
    fn nothing_is_an_error() {
        for text in ["", "\n\n", "[]"] {
            assert!(matches!(rows_of(text.as_bytes()), Err(DataError::Empty { .. })), "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_of_their_row() {
        let rows = rows_of(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").unwrap();
        assert!(rows[0].1.is_ok());
        assert_eq!(rows[1].1, Err("not UTF-8 after byte 10".into()));
    }

    #[test]
    fn folders_and_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        assert!(Sources::locate(name).unwrap_err().to_string().contains("no train.jsonl"));
        for file in ["train.jsonl", "validation.json"] {
            std::fs::write(folder.path().join(file), "x").unwrap();
        }
        let found = Sources::locate(name).unwrap();
        assert_eq!(found.train, Some(folder.path().join("train.jsonl")));
        assert_eq!(found.valid, Some(folder.path().join("validation.json")));
        assert_eq!(found.test, None);
        let file = folder.path().join("train.jsonl");
        assert_eq!(Sources::locate(file.to_str().unwrap()).unwrap().train, Some(file));
        assert!(Sources::locate("./nothing.jsonl").unwrap_err().to_string().contains("no such file"));
    }
}
