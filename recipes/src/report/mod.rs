//! What the program prints.

mod quiet;
mod rows;
mod stdout;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

pub use burnish_engine::gib;
pub use quiet::Quiet;
pub use rows::RowsReport;
pub use stdout::{failure, print};

use crate::train::{Evaluation, Events, StepMetrics, TimingSums};

/// Prints a line to stderr. Ignores a closed stderr, which is no reason to end a run.
pub fn complain(line: impl AsRef<str>) {
    writeln!(std::io::stderr().lock(), "{}", line.as_ref()).ok();
}

/// How much is printed, and in which format.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutputStyle {
    /// One JSON object per line on stdout.
    pub json: bool,
    /// Errors only.
    pub quiet: bool,
}

impl OutputStyle {
    /// Prints a line for the user to stderr, unless quiet or JSON.
    pub fn say(self, line: impl AsRef<str>) {
        if !self.quiet && !self.json {
            complain(line);
        }
    }

    /// Prints a result to stdout, as JSON or as text.
    pub fn result(self, text: impl AsRef<str>, value: &serde_json::Value) {
        print(&if self.json { format!("{value}\n") } else { format!("{}\n", text.as_ref()) });
    }
}

/// Reports a training run: as a progress bar in a terminal, as plain lines elsewhere, or as JSON.
pub struct TrainReport {
    style: OutputStyle,
    bar: Option<ProgressBar>,
    every: usize,
    total: usize,
    started: Instant,
    first_step: Option<usize>,
    timings: TimingSums,
}

impl TrainReport {
    /// A report with a line every `every` steps.
    pub fn new(style: OutputStyle, every: usize) -> Self {
        let fancy = std::io::stderr().is_terminal() && !style.json && !style.quiet;
        let bar = fancy.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} [{elapsed}<{eta}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            style,
            bar,
            every: every.max(1),
            total: 0,
            started: Instant::now(),
            first_step: None,
            timings: TimingSums::default(),
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.style.say(line),
        }
    }

    fn event(&self, value: &serde_json::Value) {
        if self.style.json {
            self.style.result("", value);
        }
    }

    /// Estimated time of the remaining steps.
    fn eta(&self, step: usize) -> Duration {
        let taken = step + 1 - self.first_step.unwrap_or(step);
        self.started.elapsed().mul_f64((self.total - step.min(self.total)) as f64 / taken.max(1) as f64)
    }
}

/// The memory that can run out, with a comma before it: the device's, or on the CPU the process's.
fn memory(metrics: &StepMetrics) -> String {
    let budget = metrics.budget_bytes.map_or_else(String::new, |bytes| format!(" of {}", gib(bytes)));
    if let Some(pool) = metrics.pool_bytes {
        let live = metrics.live_bytes.map_or_else(String::new, |bytes| format!(", {} live", gib(bytes)));
        return format!(", device {}{budget}{live}", gib(pool));
    }
    let resident = metrics.resident_bytes.or(metrics.peak_bytes);
    resident.map_or_else(String::new, |bytes| format!(", {}{budget} resident", gib(bytes)))
}

impl Events for TrainReport {
    fn step(&mut self, metrics: &StepMetrics, total: usize) {
        if self.first_step.is_none() {
            self.first_step = Some(metrics.step);
            self.started =
                Instant::now().checked_sub(Duration::from_secs_f64(metrics.step_ms / 1e3)).unwrap_or(self.started);
        }
        self.total = total;
        if let Some(timings) = &metrics.timings {
            self.timings.add(timings, metrics.step_ms);
        }
        if self.style.json {
            let mut value = json!(metrics);
            value["event"] = json!("step");
            self.event(&value);
        }
        let memory = memory(metrics);
        let metric = |key: &str, name: &str| metrics.objective.get(key).map(|value| format!(", {name} {value:.3}"));
        let preference = [metric("rewards/margins", "margin"), metric("rewards/accuracies", "accuracy")];
        let preference: String = preference.into_iter().flatten().collect();
        let message = format!("loss {:.4}{preference}, {:.0} tok/s{memory}", metrics.loss, metrics.tokens_per_second);
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(metrics.step as u64);
            bar.set_message(message.clone());
        }
        if self.bar.is_none() && (metrics.step.is_multiple_of(self.every) || metrics.step == 1 || metrics.step == total) {
            let eta = self.eta(metrics.step).as_secs();
            self.line(&format!(
                "step {}/{total}: {message}, lr {:.2e}, grad norm {:.3}, {}:{:02} left",
                metrics.step,
                metrics.learning_rate,
                metrics.grad_norm,
                eta / 60,
                eta % 60
            ));
        }
        if metrics.step == total
            && let Some(bar) = &self.bar
        {
            bar.finish();
        }
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool) {
        self.event(&json!({ "event": "evaluation", "step": step, "loss": evaluation.loss, "perplexity": evaluation.perplexity, "best": best }));
        let remark = if best { ", best so far" } else { "" };
        let perplexity = evaluation.perplexity.map(|perplexity| format!(", perplexity {perplexity:.2}")).unwrap_or_default();
        self.line(&format!("step {step}: validation loss {:.4}{perplexity}{remark}", evaluation.loss));
    }

    fn checkpoint(&mut self, path: &Path) {
        self.event(&json!({ "event": "checkpoint", "path": path.to_string_lossy() }));
        self.line(&format!("saved {}", path.display()));
    }

    fn note(&mut self, line: &str) {
        self.event(&json!({ "event": "note", "text": line }));
        self.line(line);
    }

    fn warning(&mut self, line: &str) {
        self.event(&json!({ "event": "warning", "text": line }));
        self.line(&format!("warning: {line}"));
    }

    fn end(&mut self, _finished: bool) {
        // An interrupted run leaves its bar where it is.
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
        for line in self.timings.lines() {
            self.line(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_against_its_budget() {
        let line = r#"{"step":1,"loss":1,"learning_rate":0,"grad_norm":0,"tokens":1,"tokens_per_second":1,"step_ms":1,"skipped":0}"#;
        let unknown: StepMetrics = serde_json::from_str(line).unwrap();
        assert_eq!(memory(&unknown), "");
        let process = StepMetrics { resident_bytes: Some(300 << 20), peak_bytes: Some(1 << 30), ..unknown };
        assert_eq!(memory(&process), ", 300 MiB resident");
        let process = StepMetrics { budget_bytes: Some(24 << 30), ..process };
        assert_eq!(memory(&process), ", 300 MiB of 24.00 GiB resident");
        let device = StepMetrics { pool_bytes: Some(3 << 30), live_bytes: Some(2 << 30), ..process };
        assert_eq!(memory(&device), ", device 3.00 GiB of 24.00 GiB, 2.00 GiB live");
    }
}
