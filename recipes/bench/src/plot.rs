//! Bars, as SVG.

use std::fmt::Write;

use super::document::{BackendResult, Document};

/// One per backend; from ColorBrewer's Set2.
const COLOURS: &[&str] = &["#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#b3b3b3"];

const WIDTH: f64 = 960.0;
/// Where bars begin, after their titles.
const LEFT: f64 = 400.0;
/// The longest bar; its value is written after it.
const LONGEST: f64 = WIDTH - LEFT - 80.0;
const BAR: f64 = 12.0;
const GAP: f64 = 8.0;

/// A bar of a group.
struct Bar {
    value: f64,
    colour: &'static str,
}

/// Times of the operations and tokens per second of the steps, one bar per backend.
pub fn svg(document: &Document) -> String {
    let mut drawing = Drawing { body: String::new(), y: 0.0 };
    let sizes = &document.sizes;
    drawing.heading(&format!("{}, {} × {} tokens, LoRA rank {}", document.model, sizes.batch, sizes.length, sizes.rank));
    let results: Vec<(&BackendResult, &'static str)> = document
        .backends
        .iter()
        .filter(|result| !result.kernels.is_empty() || result.step_row().is_some())
        .zip(COLOURS.iter().copied().cycle())
        .collect();
    for (result, colour) in &results {
        drawing.legend(&format!("{} {}", result.backend, result.dtype), colour);
    }
    let steps: Vec<(String, Vec<Bar>)> = results
        .iter()
        .filter_map(|(result, colour)| {
            let value = result.step_row()?.tokens_per_second;
            Some((result.backend.to_owned(), vec![Bar { value, colour }]))
        })
        .collect();
    if !steps.is_empty() {
        drawing.heading("tokens per second");
        drawing.groups(&steps, Scale::linear(&steps));
    }
    let mut titles: Vec<String> = Vec::new();
    for row in results.iter().flat_map(|(result, _)| &result.kernels) {
        let title = row.entry.title();
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    let of_title = |title: &String| {
        let bars = results.iter().filter_map(|(result, colour)| {
            let row = result.kernels.iter().find(|row| row.entry.title() == *title)?;
            Some(Bar { value: row.timing?.ms, colour })
        });
        (title.clone(), bars.collect())
    };
    let rows: Vec<(String, Vec<Bar>)> = titles.iter().map(of_title).collect();
    if !rows.is_empty() {
        drawing.heading("milliseconds per launch, logarithmic");
        drawing.groups(&rows, Scale::logarithmic(&rows));
    }
    drawing.finish()
}

/// Bars under a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct ChartGroup {
    /// What the bars are, with the unit.
    pub heading: String,
    /// Labels and values.
    pub bars: Vec<(String, f64)>,
}

/// A bar chart, each group on its own scale; the bars of rivals have another colour.
pub fn chart(groups: &[ChartGroup], is_rival: impl Fn(&str) -> bool) -> String {
    let mut drawing = Drawing { body: String::new(), y: 0.0 };
    for group in groups {
        drawing.heading(&group.heading);
        let bar = |(label, value): &(String, f64)| {
            let colour = COLOURS[usize::from(is_rival(label))];
            (label.clone(), vec![Bar { value: *value, colour }])
        };
        let rows: Vec<(String, Vec<Bar>)> = group.bars.iter().map(bar).collect();
        drawing.groups(&rows, Scale::linear(&rows));
    }
    drawing.finish()
}

/// Maps a value to a fraction of the longest bar.
#[derive(Clone, Copy)]
enum Scale {
    Linear { most: f64 },
    Logarithmic { least: f64, most: f64 },
}

impl Scale {
    fn linear(groups: &[(String, Vec<Bar>)]) -> Self {
        Self::Linear { most: values(groups).fold(0.0, f64::max) }
    }

    /// Starts at most a decade below the smallest value.
    fn logarithmic(groups: &[(String, Vec<Bar>)]) -> Self {
        let least = values(groups).filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let least = 10f64.powf(least.log10().floor());
        Self::Logarithmic { least: least / 2.0, most: values(groups).fold(least, f64::max) }
    }

    fn part(self, value: f64) -> f64 {
        let part = match self {
            Self::Linear { most } => value / most,
            Self::Logarithmic { least, most } => (value / least).ln() / (most / least).ln(),
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }
}

fn values(groups: &[(String, Vec<Bar>)]) -> impl Iterator<Item = f64> + '_ {
    groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.value)
}

struct Drawing {
    body: String,
    y: f64,
}

impl Drawing {
    fn text(&mut self, x: f64, anchor: &str, text: &str) {
        let (y, text) = (self.y, escape(text));
        // Writing to a string does not fail.
        writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#).ok();
    }

    fn bar(&mut self, x: f64, width: f64, colour: &str) {
        let top = self.y - BAR + 2.0;
        writeln!(self.body, r#"<rect x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{BAR:.1}" fill="{colour}"/>"#).ok();
    }

    fn heading(&mut self, text: &str) {
        self.y += 2.0 * BAR + GAP;
        self.text(GAP, "start", text);
    }

    fn legend(&mut self, name: &str, colour: &str) {
        self.y += BAR + GAP;
        self.bar(GAP, BAR, colour);
        self.text(2.0 * GAP + BAR, "start", name);
    }

    fn groups(&mut self, groups: &[(String, Vec<Bar>)], scale: Scale) {
        for (title, bars) in groups {
            self.y += GAP;
            for (index, bar) in bars.iter().enumerate() {
                self.y += BAR + 1.0;
                if index == 0 {
                    self.text(LEFT - GAP, "end", title);
                }
                let width = LONGEST * scale.part(bar.value);
                self.bar(LEFT, width, bar.colour);
                self.text(LEFT + width + 4.0, "start", &super::table::digits(bar.value));
            }
        }
    }

    fn finish(self) -> String {
        let height = self.y + 2.0 * BAR;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH:.0} \
             {height:.0}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(values: &[f64]) -> Vec<(String, Vec<Bar>)> {
        values.iter().map(|value| (String::new(), vec![Bar { value: *value, colour: "red" }])).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values_say() {
        let linear = Scale::linear(&groups(&[10.0, 40.0]));
        assert!((linear.part(10.0) - 0.25).abs() < 1e-9 && (linear.part(40.0) - 1.0).abs() < 1e-9);
        let logarithmic = Scale::logarithmic(&groups(&[0.2, 20.0]));
        let parts = [0.2, 2.0, 20.0].map(|value| logarithmic.part(value));
        assert!(parts[0] > 0.0 && ((parts[2] - parts[1]) - (parts[1] - parts[0])).abs() < 1e-9, "{parts:?}");
        assert!(Scale::linear(&[]).part(1.0).abs() < 1e-9);
    }

    #[test]
    fn a_chart_has_a_bar_a_value() {
        let group =
            ChartGroup { heading: "GiB".to_owned(), bars: vec![("ours".to_owned(), 5.0), ("theirs".to_owned(), 10.0)] };
        let picture = chart(&[group], |label| label == "theirs");
        let [ours, theirs] = [COLOURS[0], COLOURS[1]];
        assert!(picture.contains(&format!("width=\"240.0\" height=\"12.0\" fill=\"{ours}\"")), "{picture}");
        assert!(picture.contains(&format!("width=\"480.0\" height=\"12.0\" fill=\"{theirs}\"")), "{picture}");
    }

    #[test]
    fn text_is_escaped() {
        let mut drawing = Drawing { body: String::new(), y: 0.0 };
        drawing.heading("a < b & c");
        assert!(drawing.finish().contains("a &lt; b &amp; c"));
    }
}
