//! The examples of a file.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::examples::Examples;
use super::report::DataReport;
use super::row_file::{Kept, RowFile, RowWriter, UsedRow};
use super::tokenize::{Example, TokenizedRow};

/// The examples of a file.
#[derive(Debug, Clone)]
pub struct TokenizedFile {
    /// The file.
    pub file: PathBuf,
    /// Its examples, in the order of the file.
    pub examples: Examples,
    /// The report on its rows.
    pub report: DataReport,
    /// Whether its rows were prepared earlier.
    pub was_kept: bool,
    /// The rows that became examples.
    used: Vec<UsedRow>,
}

impl TokenizedFile {
    pub(super) fn of_kept(file: &Path, kept: Kept) -> Self {
        let Kept { rows, report, used } = kept;
        Self { file: file.to_owned(), examples: rows.into(), report, was_kept: true, used }
    }

    /// What the user should know of the rows, a line each, which names the file.
    pub fn lines(&self) -> Vec<String> {
        let earlier = self.was_kept.then(|| "prepared by an earlier run".to_owned());
        self.report.lines().into_iter().chain(earlier).map(|line| format!("{}: {line}", self.file.display())).collect()
    }

    /// Number of rows that became examples.
    pub fn used_rows(&self) -> usize {
        self.used.len()
    }

    /// A warning about the rows, which names the file.
    pub fn warning(&self) -> Option<String> {
        self.report.warning().map(|warning| format!("{}: {warning}", self.file.display()))
    }

    /// The rows that became examples: the first line of each, and the examples of each.
    pub fn rows(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.used.iter().scan(0, |next, row| {
            let start = *next;
            *next += row.examples as usize;
            Some((row.line as usize, start..*next))
        })
    }
}

/// Where examples are put while they are prepared.
enum Sink {
    /// In memory, and how many more tokens may be there.
    Memory(Vec<Example>, usize),
    File(RowWriter),
}

impl Sink {
    /// Moves examples from memory into a temporary file, which has no name.
    fn spilled(examples: &[Example]) -> io::Result<Self> {
        let wrong = |error: io::Error| {
            let folder = std::env::temp_dir();
            io::Error::other(format!("its rows can't be written to {}, which TMPDIR can change: {error}", folder.display()))
        };
        let mut writer = RowWriter::new(tempfile::tempfile().map_err(wrong)?).map_err(wrong)?;
        examples.iter().try_for_each(|example| writer.push(example)).map_err(wrong)?;
        Ok(Self::File(writer))
    }
}

/// A file whose rows are being prepared.
pub(super) struct Growing {
    file: PathBuf,
    sink: Sink,
    report: DataReport,
    used: Vec<UsedRow>,
}

impl Growing {
    /// With the examples in memory, or in a temporary file if they have more tokens than `most`.
    pub(super) fn in_memory(file: &Path, most: usize) -> Self {
        Self::new(file, Sink::Memory(Vec::new(), most))
    }

    /// With the examples in a file of prepared rows.
    pub(super) fn on_disk(file: &Path, writer: RowWriter) -> Self {
        Self::new(file, Sink::File(writer))
    }

    fn new(file: &Path, sink: Sink) -> Self {
        Self { file: file.to_owned(), sink, report: DataReport::default(), used: Vec::new() }
    }

    pub(super) fn take(&mut self, line: usize, made: TokenizedRow) -> io::Result<()> {
        self.report.take(line, &made);
        if !made.examples.is_empty() {
            self.used.push(UsedRow { line: line as u64, examples: made.examples.len() as u32 });
        }
        match &mut self.sink {
            Sink::Memory(examples, room) => {
                let tokens: usize = made.examples.iter().map(|example| example.input_ids.len()).sum();
                examples.extend(made.examples);
                match room.checked_sub(tokens) {
                    Some(left) => *room = left,
                    None => self.sink = Sink::spilled(examples)?,
                }
            }
            Sink::File(writer) => made.examples.iter().try_for_each(|example| writer.push(example))?,
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, line: usize, reason: String) {
        self.report.skip(line, reason);
    }

    /// The examples of the file.
    ///
    /// # Errors
    /// If there are none.
    pub(super) fn check(&self) -> Result<(), DataError> {
        if self.report.examples > 0 {
            return Ok(());
        }
        let report = &self.report;
        let skipped = report.first_skipped.as_ref().map(|(line, reason)| format!("line {line}: {reason}"));
        let dropped = report.first_dropped.map(|line| format!("line {line}: nothing is left to train on"));
        let (first, cut, left_out) = (skipped.or(dropped), report.truncated > 0, report.too_long > 0);
        Err(DataError::NothingLeft { file: self.file.clone(), rows: report.rows, first, cut, left_out })
    }

    /// The examples, when the file of prepared rows is on the disk.
    pub(super) fn finish(self) -> io::Result<TokenizedFile> {
        let Self { file, sink, report, used } = self;
        let examples = match sink {
            Sink::Memory(examples, _) => Examples::from(examples),
            Sink::File(writer) => RowFile::into(writer.finish(&report, &used)?),
        };
        Ok(TokenizedFile { file, examples, report, was_kept: false, used })
    }
}
