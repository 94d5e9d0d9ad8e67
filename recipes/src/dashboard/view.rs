//! Draws the dashboard.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};

use super::state::{Kind, State, clock, thinned};
use crate::report::gib;
use crate::train::StepMetrics;

/// From this width on, the numbers stand beside the curve.
const WIDE: u16 = 76;
/// From this width on, they stand in two columns.
const TWO_COLUMNS: u16 = 56;
/// The least height of a curve.
const LOWEST: u16 = 5;
/// The width of the numbers.
const NUMBERS: u16 = 30;

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Instant) {
    let [title, progress, middle, messages, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(if frame.area().height >= 24 { 6 } else { 3 }),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(ending(&state.title, title.width)).style(Modifier::BOLD), title);
    draw_progress(frame, progress, state, now);
    if middle.width >= WIDE {
        let [curve, numbers] = Layout::horizontal([Constraint::Min(0), Constraint::Length(NUMBERS)]).areas(middle);
        draw_curve(frame, curve, state);
        draw_numbers(frame, numbers, state);
    } else {
        // The numbers are below the curve, if that has room.
        let columns = if middle.width >= TWO_COLUMNS { 2 } else { 1 };
        let mut left = numbers(state, columns == 1);
        let half = left.len().div_ceil(columns);
        let height = (half as u16).min(middle.height);
        let [curve, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(height)]).areas(middle);
        if curve.height >= LOWEST {
            draw_curve(frame, curve, state);
        }
        let right = left.split_off(half);
        let areas = Layout::horizontal(vec![Constraint::Fill(1); columns]).spacing(1).split(below);
        for (area, lines) in areas.iter().zip([left, right]) {
            frame.render_widget(Paragraph::new(lines), *area);
        }
    }
    draw_messages(frame, messages, state);
    let text = if state.is_stopping {
        "finishing the step and saving; q again: exit at once"
    } else {
        "q: finish the step, save and leave"
    };
    let style = if state.is_stopping { Style::new().fg(Color::Yellow) } else { Style::new().add_modifier(Modifier::DIM) };
    frame.render_widget(Line::from(text).style(style), keys);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, state: &State, now: Instant) {
    let step = state.step_number();
    let ratio = if state.total == 0 { 0.0 } else { step as f64 / state.total as f64 };
    let elapsed = clock(state.elapsed(now));
    let label = match state.left(now) {
        Some(left) => {
            let (total, percent, left) = (state.total, 100.0 * ratio, clock(left));
            let whole = format!(" step {step}/{total}  {percent:.0} %  {elapsed} elapsed, {left} left ");
            let fits = whole.chars().count() <= usize::from(area.width);
            if fits { whole } else { format!(" {step}/{total}  {percent:.0} %  {left} left ") }
        }
        None if area.width < TWO_COLUMNS => format!(" loading, {elapsed} "),
        None => format!(" loading the model and compiling kernels, {elapsed} "),
    };
    let gauge = Gauge::default().ratio(ratio.clamp(0.0, 1.0)).label(label).use_unicode(true);
    frame.render_widget(gauge.gauge_style(Style::new().fg(Color::Blue)), area);
}

fn draw_curve(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let block = Block::bordered().title(" loss ");
    if state.losses.is_empty() {
        // Axes would have numbers that mean nothing.
        frame.render_widget(block, area);
        return;
    }
    let losses = thinned(&state.losses, usize::from(area.width));
    let smooth = thinned(&state.smooth, usize::from(area.width));
    let points = losses.iter().chain(&state.validations);
    let (low, high) = points.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    // A flat curve is drawn in the middle.
    let margin = if high - low > 1e-9 { 0.0 } else { 0.05 * high.abs().max(1.0) };
    let (low, high) = (low - margin, high + margin);
    let begin = state.losses.first().map_or(0.0, |(step, _)| *step);
    let end = (state.total as f64).max(begin + 1.0);
    let line = |points, colour| {
        let set = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line);
        set.style(Style::new().fg(colour)).data(points)
    };
    let mut sets = vec![line(&losses, Color::DarkGray), line(&smooth, Color::Cyan).name("loss, smoothed")];
    if !state.validations.is_empty() {
        sets.push(
            Dataset::default()
                .name("validation")
                .marker(Marker::Dot)
                .graph_type(GraphType::Scatter)
                .style(Style::new().fg(Color::Yellow))
                .data(&state.validations),
        );
    }
    let x = Axis::default()
        .bounds([begin, end])
        .labels([begin, f64::midpoint(begin, end), end].map(|step| format!("{step:.0}")));
    let y =
        Axis::default().bounds([low, high]).labels([low, f64::midpoint(low, high), high].map(|loss| format!("{loss:.3}")));
    let chart = Chart::new(sets).block(block).x_axis(x).y_axis(y);
    frame.render_widget(chart, area);
}

fn draw_numbers(frame: &mut Frame<'_>, area: Rect, state: &State) {
    frame.render_widget(Paragraph::new(numbers(state, false)).block(Block::bordered().title(" now ")), area);
}

/// A text, or its end if it is too wide.
fn ending(text: &str, width: u16) -> String {
    let (width, length) = (usize::from(width), text.chars().count());
    if length <= width { text.to_owned() } else { text.chars().skip(length - width).collect() }
}

/// The numbers of the last step; in few lines, those that matter most come first.
fn numbers(state: &State, is_short: bool) -> Vec<Line<'static>> {
    let Some(last) = &state.last else { return vec![Line::from("no step yet")] };
    let mut lines = vec![row("loss", format!("{:.4}", last.loss))];
    if let Some((step, loss)) = state.validations.last() {
        lines.push(row("validation", format!("{loss:.4} at {step:.0}")));
    }
    for (key, name) in [("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")] {
        lines.extend(last.objective.get(key).map(|value| row(name, format!("{value:.3}"))));
    }
    if is_short {
        lines.extend(memory(last, true));
    }
    lines.push(row("tokens/s", format!("{:.0}", last.tokens_per_second)));
    lines.push(row("step", format!("{:.0} ms", last.step_ms)));
    lines.push(row("learn. rate", format!("{:.2e}", last.learning_rate)));
    lines.push(row("grad norm", format!("{:.3}", last.grad_norm)));
    if !is_short {
        lines.extend(memory(last, false));
    }
    if last.skipped > 0 {
        lines.push(row("skipped", last.skipped.to_string()));
    }
    lines
}

fn row(name: &str, value: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{name:12}"), Modifier::DIM), Span::raw(value)])
}

/// The width of the bar of memory.
const BAR: usize = 7;

/// What can run out: the memory of the device, or on the CPU that of the process.
fn memory(last: &StepMetrics, is_short: bool) -> Vec<Line<'static>> {
    let Some(used) = last.pool_bytes.or(last.resident_bytes).or(last.peak_bytes) else { return Vec::new() };
    let budget = last.budget_bytes.filter(|budget| *budget > 0);
    if is_short {
        let of = budget.map_or_else(String::new, |budget| format!(" of {}", gib(budget)));
        return vec![row("memory", gib(used) + &of)];
    }
    let mut lines = vec![row("memory", gib(used))];
    if let Some(budget) = budget {
        let share = used as f64 / budget as f64;
        let colour = if share > 0.9 { Color::Red } else { Color::Green };
        let full = ((share * BAR as f64).round() as usize).min(BAR);
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR - full));
        let of = format!(" of {}", gib(budget));
        lines.push(Line::from(vec![Span::raw(format!("{:12}", "")), Span::raw(of.trim_start().to_owned())]));
        lines.push(Line::from(vec![
            Span::raw(format!("{:12}", "")),
            Span::styled(bar, Style::new().fg(colour)),
            Span::raw(format!(" {:.0} %", 100.0 * share)),
        ]));
    }
    lines.extend(last.live_bytes.filter(|_| last.pool_bytes.is_some()).map(|live| row("live", gib(live))));
    lines
}

fn draw_messages(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let block = Block::bordered().title(" messages ");
    let inner = block.inner(area);
    let style = |kind| match kind {
        Kind::Note => Style::new(),
        Kind::Warning => Style::new().fg(Color::Yellow),
        Kind::Result => Style::new().fg(Color::Green),
    };
    // As many of the last ones as fit, below the last warning.
    let mut left = usize::from(inner.height);
    let warning = state.messages.iter().rposition(|(kind, _)| *kind == Kind::Warning);
    let mut chosen = Vec::new();
    for index in warning.into_iter().chain((0..state.messages.len()).rev().filter(|index| Some(*index) != warning)) {
        let height = state.messages[index].1.chars().count().div_ceil(usize::from(inner.width).max(1)).max(1);
        if height > left && !chosen.is_empty() {
            break;
        }
        left = left.saturating_sub(height);
        chosen.push(index);
    }
    chosen.sort_unstable();
    let lines: Vec<Line<'_>> = chosen
        .iter()
        .map(|index| &state.messages[*index])
        .map(|(kind, text)| Line::styled(text.as_str(), style(*kind)))
        .collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::dashboard::state::tests::step;

    fn drawn(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, Instant::now() + Duration::from_secs(5))).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_the_screen_at_common_sizes() {
        let mut state = State::new("SmolLM2 · sft · metal".to_owned());
        let empty = drawn(&state, 80, 24);
        assert!(empty.contains("loading the model") && empty.contains("no step yet") && !empty.contains("1.000"), "{empty}");
        for number in 1..=50 {
            state.step(&step(number, 3.0 - 0.01 * number as f64), 100, Instant::now());
        }
        state.validations.push((25.0, 2.8));
        state.message(Kind::Result, "saved checkpoint-50");
        state.message(Kind::Warning, "swap grew by 2.00 GiB since the run began");
        // A warning stays, whatever is said after it.
        (1..20).for_each(|index| state.message(Kind::Result, &format!("saved checkpoint-{}", 50 + index)));
        for (width, height) in [(80, 24), (120, 40), (200, 60), (100, 30)] {
            let text = drawn(&state, width, height);
            for part in [
                "SmolLM2",
                "step 50/100",
                "50 %",
                "2.5000",
                "2.8000 at 25",
                "2048",
                "6.00 GiB",
                "of 12.00 GiB",
                "50 %",
                "swap grew",
                "checkpoint-69",
                "q: finish",
                "validation",
                "2.990",
            ] {
                assert!(text.contains(part), "{part} at {width}×{height}:\n{text}");
            }
        }
        // Narrow terminals have what matters most, and the smallest don't panic.
        let narrow = drawn(&state, 50, 18);
        assert!(
            narrow.contains(" loss ")
                && narrow.contains("2.5000")
                && narrow.contains("6.00 GiB")
                && narrow.contains("q: finish"),
            "{narrow}"
        );
        let small = drawn(&state, 40, 12);
        for part in ["50/100  50 %", "left", "2.8000 at 25", "6.00 GiB of 12.00 GiB", "2048", "swap grew"] {
            assert!(small.contains(part), "{part}:\n{small}");
        }
        for (width, height) in [(40, 10), (20, 5), (1, 1), (300, 3)] {
            drawn(&state, width, height);
        }
        state.is_stopping = true;
        assert!(drawn(&state, 80, 24).contains("finishing the step"));
    }
}
