//! Tables: CSV and TSV files, whose first line names the columns.

use std::collections::HashSet;
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use csv::{ReaderBuilder, StringRecord};

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
        let input = Cursor::new(without_mark(&first).to_vec()).chain(input);
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
        let names = reader.byte_headers().map_err(of_csv)?.clone();
        let names =
            StringRecord::from_byte_record(names).map_err(|_| "the names of the columns are not UTF-8".to_owned())?;
        let mut known = HashSet::new();
        if let Some(name) = names.iter().find(|name| !known.insert(*name)) {
            return Err(format!("two columns are named `{name}`").into());
        }
        let names = Arc::new(names);
        for record in reader.into_byte_records() {
            let record = record.map_err(of_csv)?;
            let line = record.position().map_or(0, |position| position.line() as usize);
            take(Piece::cells(line, names.clone(), record))?;
        }
        Ok(())
    }
}

fn of_csv(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
