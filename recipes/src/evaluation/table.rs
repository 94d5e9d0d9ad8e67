//! A comparison as text.

use super::bootstrap::{Bootstrap, Estimate};
use super::compare::{Answered, Compared, Comparison, Counted, Right};

/// The most characters of a prompt and of an answer.
const SHOWN: usize = 160;
/// Rows below which percentiles of resamples are too narrow.
const FEW: usize = 20;

impl Comparison {
    /// The lines for the user.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Counted { file, rows, tokens }) = &self.data {
            lines.push(format!("{}: {rows} rows, {tokens} predicted tokens", file.display()));
            lines.extend(columns(&self.losses()));
        }
        if let Some(asked) = self.models.iter().find_map(|model| model.exact_match).map(|right| right.asked) {
            lines.extend([
                String::new(),
                format!("{asked} answers, by the most likely token each, compared with the rows' own"),
            ]);
            lines.extend(columns(&self.rights(&[("exact match", |model| model.exact_match)])));
        }
        if let Some(Counted { file, rows, .. }) = &self.task {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("{}: {rows} questions, by the log-likelihood of each choice", file.display()));
            let kinds: [Kind; 3] = [
                ("acc (sum)", |model| model.acc),
                ("acc_norm (per character)", |model| model.acc_norm),
                ("acc_bytes (per byte)", |model| model.acc_bytes),
            ];
            lines.extend(columns(&self.rights(&kinds)));
        }
        lines.extend([String::new(), self.intervals()]);
        for answered in &self.answers {
            lines.push(String::new());
            lines.extend(self.answer(answered));
        }
        lines.extend(self.warnings().into_iter().flat_map(|warning| [String::new(), warning]));
        lines
    }

    /// A warning for each model that does what the first does.
    pub fn warnings(&self) -> Vec<String> {
        let same = |model: &Compared| match (model.identical?, model.zero_adapter) {
            (true, Some(true)) => {
                Some("its update of every matrix is zero, and every number is that of the base to the bit")
            }
            (_, Some(true)) => Some("its update of every matrix is zero"),
            (true, _) => Some("every number is that of the base to the bit"),
            _ => None,
        };
        let warning = |model: &Compared| Some(format!("WARNING: {} changes nothing: {}", model.name, same(model)?));
        self.models.iter().filter_map(warning).collect()
    }

    fn intervals(&self) -> String {
        let percent = 100.0 * self.confidence;
        let shares = "of shares by Wilson, of their differences by Bonett and Price";
        let Some(Counted { rows, .. }) = &self.data else { return format!("[ ]: {percent:.0} % intervals, {shares}") };
        let Bootstrap { resamples, seed } = self.bootstrap;
        let few = if *rows < FEW { "; they are too narrow for so few rows" } else { "" };
        format!(
            "[ ]: {percent:.0} % intervals, of losses from {resamples} resamples of the rows with seed {seed}{few}; {shares}"
        )
    }

    fn losses(&self) -> Vec<Vec<String>> {
        let mut rows = vec![titles(&["", "loss", "perplexity", "", "loss minus the base's", "", ""], self.models.len())];
        for (index, model) in self.models.iter().enumerate() {
            let (Some(loss), Some(perplexity)) = (model.loss, model.perplexity) else { continue };
            let mut row = vec![
                model.name.clone(),
                format!("{:.4}", loss.mean.value),
                number(perplexity.value, 3),
                interval(perplexity, 3),
            ];
            if index > 0 {
                row.extend(difference(loss.difference, 4, false, model.no_effect == Some(true)));
            }
            rows.push(row);
        }
        rows
    }

    fn rights(&self, kinds: &[Kind]) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (title, of) in kinds {
            rows.push(titles(&[title, "right", "share", "", "minus the base's", "", ""], self.models.len()));
            for (index, model) in self.models.iter().enumerate() {
                let Some(Right { right, asked, share, difference: change }) = of(model) else { continue };
                let mut row =
                    vec![model.name.clone(), format!("{right} of {asked}"), number(share.value, 3), interval(share, 3)];
                if index > 0 {
                    row.extend(difference(change, 3, true, model.no_effect == Some(true)));
                }
                rows.push(row);
            }
        }
        rows
    }

    fn answer(&self, answered: &Answered) -> Vec<String> {
        let mut rows = vec![vec!["  expected".to_owned(), String::new(), short(&answered.expected, false)]];
        for ((model, answer), right) in self.models.iter().zip(&answered.answers).zip(&answered.right) {
            let mark = if *right { "right" } else { "wrong" };
            rows.push(vec![format!("  {}", model.name), mark.to_owned(), short(answer, false)]);
        }
        let title = format!("line {}: {}", answered.line, short(&answered.prompt, true));
        std::iter::once(title).chain(columns(&rows)).collect()
    }
}

/// A kind of right answers: its title, and where it is.
type Kind = (&'static str, fn(&Compared) -> Option<Right>);

/// Titles of columns, without those of differences where there is one model.
fn titles(titles: &[&str; 7], models: usize) -> Vec<String> {
    titles.iter().take(if models > 1 { 7 } else { 4 }).map(|title| (*title).to_owned()).collect()
}

fn number(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

fn interval(estimate: Estimate, digits: usize) -> String {
    estimate.interval.map_or_else(String::new, |[low, high]| format!("[{low:.digits$}, {high:.digits$}]"))
}

/// A difference, its interval and what it means.
fn difference(estimate: Estimate, digits: usize, more_is_better: bool, no_effect: bool) -> [String; 3] {
    let word = match (estimate.sign(), more_is_better) {
        _ if no_effect => "NO EFFECT",
        (0, _) => "no clear difference",
        (1, true) | (-1, false) => "better",
        _ => "worse",
    };
    [format!("{:+.digits$}", estimate.value), interval(estimate, digits), word.to_owned()]
}

/// A text in one line, without its beginning or end if it is long.
fn short(text: &str, keeps_end: bool) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let count = line.chars().count();
    if count <= SHOWN {
        return line;
    }
    if keeps_end {
        let tail: String = line.chars().skip(count - SHOWN).collect();
        format!("…{tail}")
    } else {
        let head: String = line.chars().take(SHOWN).collect();
        format!("{head}…")
    }
}

/// Lines of cells, two spaces apart.
fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_better_or_worse_only_if_its_interval_excludes_zero() {
        let word = |low: f64, high: f64, more: bool| {
            let [_, _, word] = difference(Estimate { value: 0.1, interval: Some([low, high]) }, 3, more, false);
            word
        };
        assert_eq!([word(-2.0, -1.0, false), word(1.0, 2.0, true)], ["better", "better"]);
        assert_eq!([word(-2.0, -1.0, true), word(1.0, 2.0, false)], ["worse", "worse"]);
        assert_eq!([word(-1.0, 1.0, true), word(0.0, 2.0, true)], ["no clear difference", "no clear difference"]);
        assert_eq!(difference(Estimate { value: 0.0, interval: None }, 2, true, true), ["+0.00", "", "NO EFFECT"]);
    }

    #[test]
    fn long_texts_are_cut_and_columns_are_aligned() {
        let long = format!("begin {} end", "word ".repeat(100));
        assert!(short(&long, true).ends_with(" end") && short(&long, true).starts_with('…'));
        assert!(short(&long, false).starts_with("begin") && short(&long, false).ends_with('…'));
        assert_eq!(short("a\n  b", false), "a b");
        let cells = |row: &[&str]| row.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        assert_eq!(columns(&[cells(&["é", "b", "c"]), cells(&["long", ""])]), ["é     b  c", "long"]);
    }
}
