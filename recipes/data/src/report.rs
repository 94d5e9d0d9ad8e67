//! A report on the rows of a file.

use serde::{Deserialize, Serialize};

use super::tokenize::{Example, TokenizedRow};

/// Counts and problems of a file's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Examples that became several, because they are longer than `max_seq_length`.
    pub parted: usize,
    /// Examples left out because they are longer than `max_seq_length`.
    pub too_long: usize,
    /// Line of the first such row.
    pub first_too_long: Option<usize>,
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
    /// Why the prepared rows could not be kept for the next run.
    #[serde(skip)]
    pub unkept: Option<String>,
}

impl DataReport {
    /// Whether most examples were truncated, which is surely a mistake.
    pub fn is_mostly_truncated(&self) -> bool {
        2 * self.truncated > self.examples + self.dropped
    }

    /// A warning about the rows, where they are not what one would train on.
    pub fn warning(&self) -> Option<String> {
        self.is_mostly_truncated().then(|| {
            format!(
                "{} of {} examples were truncated to max_seq_length: raise it, or split the rows",
                self.truncated,
                self.examples + self.dropped
            )
        })
    }

    /// The report as lines for the user, without the warning.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} rows, {} examples, {} tokens, {} of them trained on",
            self.rows, self.examples, self.tokens, self.target_tokens
        )];
        if let Some((line, reason)) = &self.first_skipped {
            lines.push(format!("bad rows skipped: {}; the first is line {line}: {reason}", self.skipped));
        }
        if self.truncated > 0 && !self.is_mostly_truncated() {
            lines.push(format!("examples truncated to max_seq_length: {}", self.truncated));
        }
        if self.parted > 0 {
            lines.push(format!("examples split, because they are longer than max_seq_length: {}", self.parted));
        }
        if let Some(line) = self.first_too_long {
            lines.push(format!(
                "examples left out, because they are longer than max_seq_length: {}; the first is line {line}",
                self.too_long
            ));
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
        if let Some(reason) = &self.unkept {
            lines.push(format!("the prepared rows are in memory, and are not kept for the next run: {reason}"));
        }
        lines
    }

    /// Counts a row that became these examples.
    pub(super) fn take(&mut self, line: usize, made: &TokenizedRow) {
        self.rows += 1;
        self.examples += made.examples.len();
        self.truncated += made.cut;
        self.parted += made.parted;
        self.too_long += made.too_long;
        if made.too_long > 0 {
            self.first_too_long.get_or_insert(line);
        }
        self.dropped += made.dropped;
        if made.dropped > 0 {
            self.first_dropped.get_or_insert(line);
        }
        self.split += usize::from(made.split);
        self.begun_inside += made.begun_inside;
        if made.begun_inside > 0 {
            self.first_begun_inside.get_or_insert(line);
        }
        self.endless += made.endless;
        self.unread_reasoning += usize::from(made.unread_reasoning);
        self.unread_tools += usize::from(made.unread_tools);
        self.tokens += made.examples.iter().map(|example| example.input_ids.len()).sum::<usize>();
        self.target_tokens += made.examples.iter().map(Example::target_tokens).sum::<usize>();
    }

    /// Counts a bad row.
    pub(super) fn skip(&mut self, line: usize, reason: String) {
        self.rows += 1;
        self.skipped += 1;
        self.first_skipped.get_or_insert((line, reason));
    }
}
