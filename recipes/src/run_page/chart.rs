//! Line charts, drawn as SVG that stretches to any width; its texts are HTML beside it, and keep their size.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::scale::{Scale, Tick, Unit};

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// A line.
    Line,
    /// A pale line behind the others.
    Faint,
    /// Points on a dashed line.
    Points,
}

/// Values by step, in order. Values that are not finite are gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// The number of its colour.
    pub colour: usize,
    /// How it is drawn.
    pub style: Style,
    /// Steps with values.
    pub points: Vec<(usize, f64)>,
}

/// A chart for the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// Its title.
    pub title: String,
    /// A remark beside the title.
    pub remark: String,
    /// What it shows, for those who can't see it.
    pub description: String,
    /// Ticks on the left.
    pub left: Vec<Tick>,
    /// Ticks at the bottom.
    pub bottom: Vec<Tick>,
    /// The lines.
    pub lines: Vec<Drawn>,
    /// Marks of values that are not finite.
    pub gaps: Vec<Gap>,
    /// The values, for those who point at it.
    pub values: Value,
}

/// A series as a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawn {
    /// Its name.
    pub label: String,
    /// The number of its colour.
    pub colour: usize,
    /// How it is drawn.
    pub style: Style,
    /// The path of the line, within 1000 by 1000.
    pub path: String,
    /// The path of its points; empty for a line without them.
    pub points: String,
}

/// Where values are not finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    /// Its place from the left, from 0 to 100.
    pub at: f64,
    /// The number of its colour.
    pub colour: usize,
    /// What happened there.
    pub title: String,
}

/// The most points of a line.
const MOST: usize = 400;

impl Chart {
    /// A chart of these series; `None` if they have no finite value. `from_zero` begins its axis at zero.
    pub fn of(title: &str, unit: Unit, from_zero: bool, series: &[Series]) -> Option<Self> {
        let values = series.iter().flat_map(|series| &series.points);
        let scale = Scale::of(values.clone().map(|(_, value)| *value), from_zero)?;
        let (first, last) = values.fold((usize::MAX, 0), |(first, last), (step, _)| (first.min(*step), last.max(*step)));
        let steps = Scale::of_steps(first, last);
        let thinned: Vec<Vec<(usize, f64)>> = series.iter().map(|series| thinned(&series.points)).collect();
        let drawn = series.iter().zip(&thinned).map(|(series, points)| drawn(series, points, &steps, &scale));
        let shown = |points: &[(usize, f64)]| -> Vec<Value> {
            points.iter().map(|(step, value)| json!([step, steps.at(*step as f64), unit.shown(*value)])).collect()
        };
        let told = series.iter().zip(&thinned).filter(|(series, _)| series.style != Style::Faint);
        Some(Self {
            title: title.to_owned(),
            remark: if scale.is_log { "log scale".to_owned() } else { String::new() },
            description: description(title, unit, series),
            left: scale.ticks(4, unit),
            bottom: steps.ticks(5, Unit::Count),
            lines: drawn.collect(),
            gaps: series
                .iter()
                .filter(|series| series.style != Style::Faint)
                .flat_map(|series| gaps(series, &steps))
                .collect(),
            values: told
                .map(|(series, points)| json!({ "label": series.label, "colour": series.colour, "points": shown(points) }))
                .collect(),
        })
    }
}

fn description(title: &str, unit: Unit, series: &[Series]) -> String {
    let told = series.iter().filter(|series| series.style != Style::Faint).filter_map(|series| {
        let (first, last) = (series.points.first()?, series.points.last()?);
        Some(format!(
            "{} from {} at step {} to {} at step {}",
            series.label,
            unit.shown(first.1),
            first.0,
            unit.shown(last.1),
            last.0
        ))
    });
    format!("{title}: {}", told.collect::<Vec<_>>().join("; "))
}

/// Fewer points of the same look: of each bucket the smallest and the largest value, and any that is not finite.
fn thinned(points: &[(usize, f64)]) -> Vec<(usize, f64)> {
    if points.len() <= MOST {
        return points.to_vec();
    }
    let size = points.len().div_ceil(MOST / 2);
    let mut kept = Vec::with_capacity(MOST);
    for bucket in points.chunks(size) {
        let finite = || bucket.iter().filter(|(_, value)| value.is_finite());
        let order = |one: &&(usize, f64), other: &&(usize, f64)| one.1.total_cmp(&other.1);
        let mut chosen: Vec<(usize, f64)> =
            finite().min_by(order).into_iter().chain(finite().max_by(order)).copied().collect();
        chosen.extend(bucket.iter().find(|(_, value)| !value.is_finite()));
        chosen.sort_by_key(|(step, _)| *step);
        chosen.dedup_by_key(|(step, _)| *step);
        kept.extend(chosen);
    }
    // The ends are what a reader looks at.
    for end in [points.first(), points.last()].into_iter().flatten() {
        if let Err(place) = kept.binary_search_by_key(&end.0, |(step, _)| *step) {
            kept.insert(place, *end);
        }
    }
    kept
}

fn drawn(series: &Series, points: &[(usize, f64)], steps: &Scale, scale: &Scale) -> Drawn {
    let (mut path, mut dots, mut is_open) = (String::new(), String::new(), false);
    for (index, (step, value)) in points.iter().enumerate() {
        if !value.is_finite() {
            is_open = false;
            continue;
        }
        let (x, y) = (1000.0 * steps.at(*step as f64), 1000.0 * (1.0 - scale.at(*value)));
        write!(path, "{}{x:.1} {y:.1}", if is_open { "L" } else { "M" }).ok();
        // A value between two gaps has no line, and would not be seen.
        let is_alone = !is_open && points.get(index + 1).is_none_or(|(_, next)| !next.is_finite());
        if series.style == Style::Points || is_alone {
            write!(dots, "M{x:.1} {y:.1}h.01").ok();
        }
        is_open = true;
    }
    Drawn { label: series.label.clone(), colour: series.colour, style: series.style, path, points: dots }
}

/// A mark for each stretch of values that are not finite.
fn gaps(series: &Series, steps: &Scale) -> Vec<Gap> {
    let broken = |(_, value): &(usize, f64)| !value.is_finite();
    let stretches = series.points.chunk_by(|one, other| broken(one) == broken(other));
    let gap = |stretch: &[(usize, f64)]| {
        let (first, last) = (stretch.first()?.0, stretch.last()?.0);
        let place = if first == last { format!("step {first}") } else { format!("steps {first} to {last}") };
        let at = 50.0 * (steps.at(first as f64) + steps.at(last as f64));
        Some(Gap { at, colour: series.colour, title: format!("{}: not finite at {place}", series.label) })
    };
    stretches.filter(|stretch| stretch.iter().all(broken)).filter_map(gap).collect()
}

/// The mean of each value with those around it, so that the trend shows; values that are not finite stay gaps.
pub fn smoothed(points: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let half = points.len() / 80;
    let mean = |index: usize| {
        if !points[index].1.is_finite() {
            return f64::NAN;
        }
        // As many before as after, so that the ends are those of the run.
        let half = half.min(index).min(points.len() - 1 - index);
        let around = points[index - half..=index + half].iter().map(|(_, value)| *value);
        let finite: Vec<f64> = around.filter(|value| value.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    (0..points.len()).map(|index| (points[index].0, mean(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64], style: Style) -> Series {
        let points = values.iter().enumerate().map(|(index, value)| (index + 1, *value)).collect();
        Series { label: "run".to_owned(), colour: 0, style, points }
    }

    #[test]
    fn values_that_are_not_finite_are_gaps_with_marks() {
        let values = [2.0, f64::NAN, 1.5, f64::INFINITY, f64::NAN, 1.0, 1.1];
        let chart = Chart::of("Loss", Unit::Plain, false, &[series(&values, Style::Line)]).unwrap();
        assert_eq!(chart.lines[0].path.matches('M').count(), 3);
        // The first and the third value stand alone.
        assert_eq!(chart.lines[0].points.matches('M').count(), 2);
        let titles: Vec<&str> = chart.gaps.iter().map(|gap| gap.title.as_str()).collect();
        assert_eq!(titles, ["run: not finite at step 2", "run: not finite at steps 4 to 5"]);
        assert!(chart.gaps.iter().all(|gap| (0.0..=100.0).contains(&gap.at)));
        assert!(Chart::of("Loss", Unit::Plain, false, &[series(&[f64::NAN], Style::Line)]).is_none());
        assert!(Chart::of("Loss", Unit::Plain, false, &[]).is_none());
    }

    #[test]
    fn a_long_run_keeps_its_ends_and_its_spikes() {
        let mut values: Vec<f64> = (0..10_000).map(|step| 2.0 - f64::from(step) * 1e-4).collect();
        values[5003] = 9.0;
        values[7001] = f64::NAN;
        let all = series(&values, Style::Line).points;
        let few = thinned(&all);
        assert!(few.len() <= MOST + 10 && few.contains(&(5004, 9.0)), "{}", few.len());
        assert!(few.iter().any(|(step, value)| *step == 7002 && value.is_nan()));
        assert_eq!((few.first(), few.last()), (all.first(), all.last()));
        assert!(few.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn means_follow_the_values_and_keep_the_gaps() {
        let mut values = vec![1.0; 80];
        values.extend([3.0; 80]);
        values[100] = f64::NAN;
        let found = smoothed(&series(&values, Style::Line).points);
        assert!((found[77].1 - 1.0).abs() < 1e-12 && (found[159].1 - 3.0).abs() < 1e-12 && found[100].1.is_nan());
        assert!(found[79].1 > 1.0 && found[79].1 < 3.0 && found[101].1.is_finite());
    }
}
