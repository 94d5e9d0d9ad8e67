//! Tables: CSV and TSV files, whose first line names the columns.

use std::collections::HashSet;
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Terminator};

use super::piece::{Piece, without_mark};
use super::unpack::plain_name;

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

    /// Of the first line.
    fn delimiter(self, first: &[u8]) -> u8 {
        match self {
            Self::Tsv => b'\t',
            Self::Csv if first.contains(&b';') && !first.contains(&b',') => b';',
            Self::Csv => b',',
        }
    }

    /// Gives the rows of a file to `take`, each with its first line, from 1. An empty cell is an absent key, as for
    /// `load_dataset("csv")` of datasets.
    ///
    /// # Errors
    /// If the file can't be read, or the names of the columns can't be used.
    pub(super) fn pieces<E: From<io::Error> + From<String>>(
        self,
        mut input: impl BufRead,
        take: &mut dyn FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut first = Vec::new();
        input.read_until(b'\n', &mut first)?;
        let delimiter = self.delimiter(&first);
        // The csv crate counts line feeds, but its terminator CRLF leaves that of `\r\n` to the next record.
        let has_line_feeds = first.ends_with(b"\n");
        let terminator = if has_line_feeds { Terminator::Any(b'\n') } else { Terminator::CRLF };
        let input = Cursor::new(without_mark(&first).to_vec()).chain(input).chain(&b"\n"[..]);
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .terminator(terminator)
            .flexible(true)
            .has_headers(false)
            .from_reader(input);
        let mut record = ByteRecord::new();
        reader.read_byte_record(&mut record).map_err(of_csv)?;
        without_return(&mut record);
        let names = StringRecord::from_byte_record(std::mem::take(&mut record))
            .map_err(|_| "the names of the columns are not UTF-8".to_owned())?;
        let mut known = HashSet::new();
        if let Some(name) = names.iter().find(|name| !known.insert(*name)) {
            return Err(format!("two columns are named `{name}`").into());
        }
        let names = Arc::new(names);
        let mut rows = 0;
        while reader.read_byte_record(&mut record).map_err(of_csv)? {
            if record.as_slice() == b"\r" {
                continue;
            }
            rows += 1;
            let line = if has_line_feeds {
                let lines = record.as_slice().split(|byte| *byte == b'\n').count();
                (reader.position().line() as usize).saturating_sub(lines)
            } else {
                1 + rows
            };
            without_return(&mut record);
            take(Piece::cells(line, names.clone(), std::mem::take(&mut record)))?;
        }
        Ok(())
    }
}

/// Removes the carriage return at the end of a line.
fn without_return(record: &mut ByteRecord) {
    let Some(at) = record.len().checked_sub(1) else { return };
    if let Some(cell) = record[at].strip_suffix(b"\r").map(<[u8]>::to_vec) {
        record.truncate(at);
        record.push_field(&cell);
    }
}

fn of_csv(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
