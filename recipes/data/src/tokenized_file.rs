//! The examples of a file, and a report on its rows.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::batch::order::{VALIDATION, order};
use super::error::DataError;
use super::tokenize::{Example, TokenizedRow};

/// Counts and problems of a file's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Rows read.
    pub rows: usize,
    /// Examples made.
    pub examples: usize,
    /// Bad rows that were skipped.
    pub skipped: usize,
    /// Line and error of the first skipped row.
    pub first_skipped: Option<(usize, String)>,
    /// Examples truncated to `max_seq_length`.
    pub truncated: usize,
    /// Examples dropped because nothing was left to learn.
    pub dropped: usize,
    /// Rows split into one example per assistant turn, because the template rewrites earlier turns.
    pub split: usize,
    /// Examples whose prompt ends in the middle of a token.
    pub begun_inside: usize,
    /// Line of the first such row.
    pub first_begun_inside: Option<usize>,
    /// Examples without an end token, because neither the tokenizer nor the configuration names one.
    pub endless: usize,
    /// Rows with reasoning that the chat template does not render.
    pub unread_reasoning: usize,
    /// Rows whose tools or tool calls the chat template does not render.
    pub unread_tools: usize,
    /// Line of the first such row.
    pub first_dropped: Option<usize>,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Learned tokens.
    pub target_tokens: usize,
}

impl DataReport {
    /// The report as lines for the user.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} rows, {} examples, {} tokens, {} of them trained on",
            self.rows, self.examples, self.tokens, self.target_tokens
        )];
        if let Some((line, reason)) = &self.first_skipped {
            lines.push(format!("bad rows skipped: {}; the first is line {line}: {reason}", self.skipped));
        }
        if self.truncated > 0 {
            // More than half of a file is surely a mistake.
            let is_most = 2 * self.truncated > self.examples + self.dropped;
            let advice = if is_most { ", most of the file: raise max_seq_length, or split the rows" } else { "" };
            lines.push(format!("examples truncated to max_seq_length: {}{advice}", self.truncated));
        }
        if let Some(line) = self.first_dropped {
            lines.push(format!(
                "examples dropped because nothing was left to train on: {}; the first is line {line}",
                self.dropped
            ));
        }
        if self.split > 0 {
            lines.push(format!(
                "conversations split into one example per turn, because the chat template rewrites earlier turns: {}",
                self.split
            ));
        }
        if let Some(line) = self.first_begun_inside {
            lines.push(format!(
                "examples whose prompt ends inside a token (often with a space), which is trained on with the answer: {}; the \
                 first is line {line}",
                self.begun_inside
            ));
        }
        if self.endless > 0 {
            lines.push(format!(
                "examples without an end token, because neither the tokenizer nor config.json names one: {}",
                self.endless
            ));
        }
        if self.unread_reasoning > 0 {
            lines.push(format!(
                "rows with reasoning that is left out, because the chat template does not render it: {}",
                self.unread_reasoning
            ));
        }
        if self.unread_tools > 0 {
            lines.push(format!(
                "rows with tools or tool calls that the chat template does not render: {}",
                self.unread_tools
            ));
        }
        lines
    }
}

/// The examples of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedFile {
    /// The file.
    pub file: PathBuf,
    /// Its examples, in the order of the file.
    pub examples: Vec<Example>,
    /// The report on its rows.
    pub report: DataReport,
    /// How many examples each row became, without rows that became none.
    of_row: Vec<usize>,
    /// The first line of each of them.
    lines: Vec<usize>,
}

impl TokenizedFile {
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            examples: Vec::new(),
            report: DataReport::default(),
            of_row: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Number of rows that became examples.
    pub fn used_rows(&self) -> usize {
        self.of_row.len()
    }

    /// The rows that became examples: the first line of each, and the examples of each.
    pub fn rows(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let ranges = self.of_row.iter().scan(0, |next, count| {
            let start = *next;
            *next += count;
            Some(start..*next)
        });
        self.lines.iter().copied().zip(ranges)
    }

    /// The examples of all rows but `count`, and those of these rows, which are drawn by the seed; both in the order of the file.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn split(self, count: usize, seed: u64) -> [Vec<Example>; 2] {
        let rows = self.of_row.len();
        assert!(count <= rows, "{count} of {rows} rows");
        let mut is_drawn = vec![false; rows];
        for row in &order(rows, Some(seed), VALIDATION)[..count] {
            is_drawn[*row] = true;
        }
        let mut parts = [Vec::new(), Vec::new()];
        let mut examples = self.examples.into_iter();
        for (made, drawn) in self.of_row.into_iter().zip(is_drawn) {
            parts[usize::from(drawn)].extend(examples.by_ref().take(made));
        }
        parts
    }

    pub(super) fn take(&mut self, line: usize, made: TokenizedRow) {
        self.report.rows += 1;
        self.report.examples += made.examples.len();
        self.report.truncated += made.cut;
        self.report.dropped += made.dropped;
        if made.dropped > 0 {
            self.report.first_dropped.get_or_insert(line);
        }
        self.report.split += usize::from(made.split);
        self.report.begun_inside += made.begun_inside;
        if made.begun_inside > 0 {
            self.report.first_begun_inside.get_or_insert(line);
        }
        self.report.endless += made.endless;
        self.report.unread_reasoning += usize::from(made.unread_reasoning);
        self.report.unread_tools += usize::from(made.unread_tools);
        self.report.tokens += made.examples.iter().map(|example| example.input_ids.len()).sum::<usize>();
        self.report.target_tokens += made.examples.iter().map(Example::target_tokens).sum::<usize>();
        if !made.examples.is_empty() {
            self.of_row.push(made.examples.len());
            self.lines.push(line);
        }
        self.examples.extend(made.examples);
    }

    pub(super) fn skip(&mut self, line: usize, reason: String) {
        self.report.rows += 1;
        self.report.skipped += 1;
        self.report.first_skipped.get_or_insert((line, reason));
    }

    pub(super) fn finish(self) -> Result<Self, DataError> {
        if self.examples.is_empty() {
            let skipped = self.report.first_skipped.map(|(line, reason)| format!("line {line}: {reason}"));
            let dropped = self.report.first_dropped.map(|line| format!("line {line}: nothing is left to train on"));
            let (first, cut) = (skipped.or(dropped), self.report.truncated > 0);
            return Err(DataError::NothingLeft { file: self.file, rows: self.report.rows, first, cut });
        }
        Ok(self)
    }
}
