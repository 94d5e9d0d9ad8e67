//! The figures and the curves of a run.

use std::collections::BTreeSet;

use serde::Serialize;

use super::chart::{Chart, Series, Style, smoothed};
use super::record::RunRecord;
use super::scale::{Unit, count};
use crate::train::StepMetrics;

/// A figure of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// A remark.
    pub remark: String,
}

/// The figures of a run, the same for every run.
pub fn figures(run: &RunRecord) -> Vec<Figure> {
    let steps = &run.steps;
    let figure = |name, value: String, remark: String| Figure { name, value, remark };
    let plain = |value: f64| {
        if (1e-3..1e4).contains(&value.abs()) { format!("{value:.4}") } else { Unit::Plain.shown(value) }
    };
    let best = run.validations.iter().filter(|line| line.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss));
    let (first, last) = (steps.first().map_or(f64::NAN, |step| step.loss), steps.last().map_or(f64::NAN, |step| step.loss));
    let tokens: usize = steps.iter().map(|step| step.tokens).sum();
    let seconds = steps.iter().map(|step| step.step_ms).filter(|time| time.is_finite()).sum::<f64>() / 1e3;
    let mut speeds: Vec<f64> = steps.iter().map(|step| step.tokens_per_second).filter(|speed| speed.is_finite()).collect();
    speeds.sort_by(f64::total_cmp);
    let memory = steps.iter().filter_map(memory_of).max();
    let budget = steps.iter().filter_map(|step| step.budget_bytes).max();
    let skipped = steps.last().map_or(0, |step| step.skipped);
    let bytes = |bytes: u64| Unit::Bytes.shown(bytes as f64);
    vec![
        figure("steps", count(run.last_step() as f64), progress(run)),
        figure("last training loss", plain(last), format!("{} at first", plain(first))),
        match best {
            Some(best) => {
                let perplexity =
                    best.perplexity.map(|value| format!(", perplexity {}", Unit::Plain.shown(value))).unwrap_or_default();
                figure("best validation loss", plain(best.loss), format!("at step {}{perplexity}", best.step))
            }
            None => figure("best validation loss", "–".to_owned(), "no validation recorded".to_owned()),
        },
        figure("tokens", count(tokens as f64), if skipped > 0 { format!("{skipped} steps skipped") } else { String::new() }),
        figure(
            "throughput",
            speeds.get(speeds.len() / 2).map_or_else(|| "–".to_owned(), |speed| count(*speed)),
            "tokens a second, median".to_owned(),
        ),
        figure(
            "peak memory",
            memory.map_or_else(|| "–".to_owned(), bytes),
            budget.map_or_else(String::new, |budget| format!("of {}", bytes(budget))),
        ),
        figure("time in steps", duration(seconds), String::new()),
    ]
}

/// How far a run came.
fn progress(run: &RunRecord) -> String {
    let total = run.facts.as_ref().map_or(0, |facts| facts.steps);
    let (last, is_done) = (run.last_step(), !run.results.is_empty());
    match (is_done, total) {
        (true, total) if total > last => format!("of {}, stopped early", count(total as f64)),
        (true, _) => "finished".to_owned(),
        (false, 0) => "not finished".to_owned(),
        (false, total) => format!("of {}, not finished", count(total as f64)),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The memory that can run out: the device's, or on the CPU the process's.
fn memory_of(step: &StepMetrics) -> Option<u64> {
    step.pool_bytes.or(step.resident_bytes)
}

/// The charts of runs over each other.
pub fn charts(runs: &[RunRecord]) -> Vec<Chart> {
    let number = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
    let mut charts = vec![losses(runs)];
    charts.extend([
        curve(runs, "Learning rate", Unit::Scientific, true, |step| step.learning_rate),
        curve(runs, "Gradient norm", Unit::Plain, false, |step| step.grad_norm),
        curve(runs, "Tokens per second", Unit::Count, true, |step| step.tokens_per_second),
    ]);
    let has_device = runs.iter().flat_map(|run| &run.steps).any(|step| step.pool_bytes.is_some());
    let title = if has_device { "Memory of the device" } else { "Memory of the process" };
    let mut memory = of_each(runs, Style::Line, |step| number(memory_of(step)));
    if let ([run], true) = (runs, has_device) {
        "allocated".clone_into(&mut memory[0].label);
        let points = run.steps.iter().map(|step| (step.step, number(step.live_bytes))).collect();
        memory.push(Series { label: "in tensors".to_owned(), colour: 1, style: Style::Line, points });
    }
    // A backend that does not report its memory has no gaps, but no curve.
    for series in &mut memory {
        series.points.retain(|(_, bytes)| bytes.is_finite());
    }
    charts.push(Chart::of(title, Unit::Bytes, true, &memory));
    let metrics: BTreeSet<&String> = runs.iter().flat_map(|run| &run.steps).flat_map(|step| step.objective.keys()).collect();
    for name in metrics {
        let mut series = of_each(runs, Style::Line, |step| step.objective.get(name).copied().unwrap_or(f64::NAN));
        for series in &mut series {
            series.points.retain(|(_, value)| value.is_finite());
        }
        charts.push(Chart::of(name, Unit::Plain, false, &series));
    }
    charts.into_iter().flatten().collect()
}

/// Training losses with their trend, and validation losses.
fn losses(runs: &[RunRecord]) -> Option<Chart> {
    let is_one = runs.len() == 1;
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let points: Vec<(usize, f64)> = run.steps.iter().map(|step| (step.step, step.loss)).collect();
        let label = if is_one { "training".to_owned() } else { run.name.clone() };
        if points.len() >= 80 {
            series.push(Series { label: label.clone(), colour: index, style: Style::Faint, points: points.clone() });
        }
        series.push(Series { label, colour: index, style: Style::Line, points: smoothed(&points) });
        let points: Vec<(usize, f64)> = run.validations.iter().map(|line| (line.step, line.loss)).collect();
        if !points.is_empty() {
            // Of several runs, the colour tells which one it is, and points that it is its validation.
            let (label, colour) =
                if is_one { ("validation".to_owned(), 1) } else { (format!("{}, validation", run.name), index) };
            series.push(Series { label, colour, style: Style::Points, points });
        }
    }
    Chart::of("Loss", Unit::Plain, false, &series)
}

fn curve(runs: &[RunRecord], title: &str, unit: Unit, from_zero: bool, of: impl Fn(&StepMetrics) -> f64) -> Option<Chart> {
    Chart::of(title, unit, from_zero, &of_each(runs, Style::Line, of))
}

fn of_each(runs: &[RunRecord], style: Style, of: impl Fn(&StepMetrics) -> f64) -> Vec<Series> {
    let series = |(colour, run): (usize, &RunRecord)| Series {
        label: run.name.clone(),
        colour,
        style,
        points: run.steps.iter().map(|step| (step.step, of(step))).collect(),
    };
    runs.iter().enumerate().map(series).collect()
}
