//! The examples of a file, and what became of its rows.

use std::path::{Path, PathBuf};

use super::error::DataError;
use super::tokenize::{Example, Made};

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows read.
    pub rows: usize,
    /// Examples made.
    pub examples: usize,
    /// Rows that were wrong and left out.
    pub skipped: usize,
    /// Line and reason of the first of them.
    pub first_skipped: Option<(usize, String)>,
    /// Examples cut to `max_seq_length`.
    pub truncated: usize,
    /// Examples dropped because nothing was left to learn.
    pub dropped: usize,
    /// Rows that became one example an assistant turn, because the template rewrites earlier turns.
    pub split: usize,
    /// Examples with an answer that begins inside a token, for their prompt ends in the middle of it.
    pub begun_inside: usize,
    /// Line of the first row of them.
    pub first_begun_inside: Option<usize>,
    /// Examples without an end, for neither the tokenizer nor the configuration names a token for it.
    pub endless: usize,
    /// Rows whose reasoning the chat template has no place for.
    pub unread_reasoning: usize,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Tokens that are learned.
    pub target_tokens: usize,
}

impl Report {
    /// One line for each thing that the user should know.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} rows, {} examples, {} tokens, {} of them learned",
            self.rows, self.examples, self.tokens, self.target_tokens
        )];
        if let Some((line, reason)) = &self.first_skipped {
            lines.push(format!("bad rows left out: {}; the first, line {line}: {reason}", self.skipped));
        }
        if self.truncated > 0 {
            lines.push(format!("examples cut to max_seq_length: {}", self.truncated));
        }
        if self.dropped > 0 {
            lines.push(format!("examples dropped because nothing to learn was left: {}", self.dropped));
        }
        if self.split > 0 {
            lines.push(format!(
                "conversations split into one example a turn, because the chat template rewrites earlier turns: {}",
                self.split
            ));
        }
        if let Some(line) = self.first_begun_inside {
            lines.push(format!(
                "examples whose prompt ends inside a token (often its last space), which is learned with the answer: {}; the \
                 first, line {line}",
                self.begun_inside
            ));
        }
        if self.endless > 0 {
            lines.push(format!(
                "examples that teach no end, because neither the tokenizer nor config.json names an end token: {}",
                self.endless
            ));
        }
        if self.unread_reasoning > 0 {
            lines.push(format!(
                "rows with reasoning that is left out, because the chat template has no place for it: {}",
                self.unread_reasoning
            ));
        }
        lines
    }
}

/// The examples of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file.
    pub file: PathBuf,
    /// In the order of the file.
    pub examples: Vec<Example>,
    /// What became of its rows.
    pub report: Report,
}

impl Prepared {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), examples: Vec::new(), report: Report::default() }
    }

    pub(super) fn take(&mut self, line: usize, made: Made) {
        self.report.rows += 1;
        self.report.examples += made.examples.len();
        self.report.truncated += made.cut;
        self.report.dropped += made.dropped;
        self.report.split += usize::from(made.split);
        self.report.begun_inside += made.begun_inside;
        if made.begun_inside > 0 {
            self.report.first_begun_inside.get_or_insert(line);
        }
        self.report.endless += made.endless;
        self.report.unread_reasoning += usize::from(made.unread_reasoning);
        self.report.tokens += made.examples.iter().map(|example| example.input_ids.len()).sum::<usize>();
        self.report.target_tokens += made.examples.iter().map(Example::target_tokens).sum::<usize>();
        self.examples.extend(made.examples);
    }

    pub(super) fn skip(&mut self, line: usize, reason: String) {
        self.report.rows += 1;
        self.report.skipped += 1;
        self.report.first_skipped.get_or_insert((line, reason));
    }

    pub(super) fn finish(self) -> Result<Self, DataError> {
        if self.examples.is_empty() {
            let first = self.report.first_skipped.map(|(line, reason)| format!("line {line}: {reason}"));
            return Err(DataError::NothingLeft { file: self.file, rows: self.report.rows, first });
        }
        Ok(self)
    }
}
