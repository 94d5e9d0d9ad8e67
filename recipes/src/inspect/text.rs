//! An inspection as text.

use std::fmt::Write;

use super::{FileInspection, Inspection, Lengths, Packing};
use crate::data::Part;

/// Columns of a line.
const WIDTH: usize = 100;
/// Columns of the longest bar.
const BAR: usize = 40;

/// How tokens are shown.
#[derive(Debug, Clone, Copy)]
pub struct Colours(pub bool);

impl Colours {
    fn learned(self, text: &str) -> String {
        if self.0 { format!("\x1b[32m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn dim(self, text: &str) -> String {
        if self.0 { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Inspection {
    /// As lines for the user. Parts that are learned have a `+` before them, and are coloured.
    pub fn text(&self, colours: Colours) -> String {
        self.files.iter().map(|file| of_file(file, colours)).collect::<Vec<_>>().join("\n")
    }
}

fn of_file(file: &FileInspection, colours: Colours) -> String {
    let mut text = String::new();
    let share = 100.0 * file.target_tokens as f64 / file.tokens.max(1) as f64;
    let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
    line(format!(
        "{}: {} rows, {} examples, {} tokens, {} of them trained on ({share:.0} %)",
        file.file.display(),
        file.rows,
        file.examples,
        file.tokens,
        file.target_tokens
    ));
    for shown in &file.shown {
        for (number, example) in shown.examples.iter().enumerate() {
            let which = if shown.examples.len() > 1 { format!(", example {}", number + 1) } else { String::new() };
            let count = |learned: bool| {
                example.iter().filter(|part| part.learned || !learned).map(|part| part.tokens.len()).sum::<usize>()
            };
            line(format!("\nline {}{which}: {} tokens, + {} trained on", shown.line, count(false), count(true)));
            for part in example {
                of_part(part, colours).into_iter().for_each(&mut line);
            }
        }
    }
    if file.examples > 0 {
        line("\nlengths in tokens".to_owned());
        of_lengths(&file.lengths).into_iter().for_each(&mut line);
    }
    if let Some(packing) = &file.packing {
        line(String::new());
        of_packing(packing, file.tokens).into_iter().for_each(&mut line);
    }
    line(String::new());
    findings(file).into_iter().for_each(&mut line);
    text
}

/// The tokens of a part, with `│` between them and `⏎` for the end of a line.
fn of_part(part: &Part, colours: Colours) -> Vec<String> {
    let role = part.role.as_deref().unwrap_or("");
    let mark = if part.learned { '+' } else { ' ' };
    let mut lines = Vec::new();
    let (mut line, mut columns) = (String::new(), 0);
    let separator = colours.dim("│");
    let last = part.tokens.len().saturating_sub(1);
    for (at, token) in part.tokens.iter().enumerate() {
        let shown: String = token
            .chars()
            .map(|c| match c {
                '\n' => '⏎',
                '\r' => '␍',
                '\t' => '⇥',
                c if c.is_control() => '�',
                c => c,
            })
            .collect();
        columns += shown.chars().count() + 1;
        line += &if part.learned { colours.learned(&shown) } else { shown };
        line += &separator;
        if columns >= WIDTH || token.ends_with('\n') || at == last {
            let name = if lines.is_empty() { role } else { "" };
            lines.push(format!("{mark} {name:<10} {line}"));
            (line, columns) = (String::new(), 0);
        }
    }
    lines
}

fn of_lengths(lengths: &Lengths) -> Vec<String> {
    let largest = lengths.bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let mut start = 1;
    let mut lines: Vec<String> = Vec::new();
    for (end, count) in &lengths.bars {
        let bar = "█".repeat((count * BAR).div_ceil(largest));
        let space = if bar.is_empty() { "" } else { " " };
        lines.push(format!("{:>15}  {bar}{space}{count}", format!("{start} to {end}")));
        start = end + 1;
    }
    let Lengths { least, median, most_of_ten, most_of_hundred, most, .. } = lengths;
    lines.push(format!(
        "shortest {least}, median {median}, 90 % up to {most_of_ten}, 99 % up to {most_of_hundred}, longest {most}"
    ));
    lines
}

fn of_packing(packing: &Packing, tokens: usize) -> Vec<String> {
    let wasted = 100.0 * (packing.padded_tokens - tokens) as f64 / packing.padded_tokens.max(1) as f64;
    vec![
        format!(
            "padding short rows would add {wasted:.0} % of what is computed; padding_free, which is the default, does not pad them"
        ),
        format!(
            "packing would put them into {} rows, {:.0} % full: {} micro-batches of {} rows instead of {} an epoch",
            packing.packed_rows,
            100.0 * packing.filled,
            packing.packed_micro_batches,
            packing.batch_size,
            packing.micro_batches
        ),
    ]
}

/// Everything odd.
fn findings(file: &FileInspection) -> Vec<String> {
    let mut lines = Vec::new();
    if file.bad.rows > 0 {
        lines.push(format!("bad rows: {}", file.bad.rows));
        lines.extend(file.bad.first.iter().map(|(line, reason)| format!("  line {line}: {reason}")));
    }
    let odd = file.odd.iter().map(|odd| format!("rows {}: {}; the first is line {}", odd.words, odd.rows, odd.first_line));
    lines.extend(odd);
    let duplicates = &file.duplicates;
    if let Some((line, earlier)) = duplicates.first {
        lines.push(format!(
            "rows that repeat an earlier one: {}; the first is line {line}, which repeats line {earlier}",
            duplicates.within
        ));
    }
    if let Some(line) = duplicates.first_in_earlier {
        lines.push(format!(
            "rows that are in an earlier file too: {}; the first is line {line}",
            duplicates.in_earlier_files
        ));
    }
    if lines.is_empty() {
        lines.push("nothing odd was found".to_owned());
    }
    lines
}
