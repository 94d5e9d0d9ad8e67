//! Aligned columns.

use std::fmt;

/// A table of text; the first columns stand to the left, numbers to the right.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// An empty table, so many of its columns to the left.
    pub fn new<S: Into<String>>(left: usize, head: impl IntoIterator<Item = S>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new(), left }
    }

    /// Adds a row.
    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        for (index, row) in lines().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let aligned =
                    if column < self.left { format!("{gap}{cell:<width$}") } else { format!("{gap}{cell:>width$}") };
                line.push_str(&aligned);
            }
            // What is beyond the head is a remark.
            for remark in row.iter().skip(widths.len()).filter(|remark| !remark.is_empty()) {
                line.push_str("  ");
                line.push_str(remark);
            }
            let end = if index == self.rows.len() { "" } else { "\n" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number with three digits that count.
pub fn digits(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        size if size >= 0.1 => format!("{number:.3}"),
        size if size >= 0.01 => format!("{number:.4}"),
        size if size >= 0.001 => format!("{number:.5}"),
        _ => format!("{number:.1e}"),
    }
}

/// A number that may be missing.
pub fn maybe(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), digits)
}

/// A share of one, in percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_remarks_hang_over() {
        let mut table = Table::new(1, ["kernel", "ms", "GB/s"]);
        table.push(["norm 4×8", "1.25", "300"]);
        table.push(["x", "10.0", "-", "", "no memory"]);
        let expected = "kernel      ms  GB/s\nnorm 4×8  1.25   300\nx         10.0     -  no memory";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown = [1234.5, 99.5, 12.34, 1.234, 0.1234, 0.012_34, 0.001_234, 1.2e-5, 0.0].map(digits);
        assert_eq!(shown, ["1234", "99.5", "12.3", "1.23", "0.123", "0.0123", "0.00123", "1.2e-5", "0"]);
        assert_eq!((maybe(None), percent(Some(0.834)), percent(None)), ("-".into(), "83 %".into(), "-".into()));
    }
}
