//! What the dashboard shows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::train::StepMetrics;

/// Messages that are kept.
const MESSAGES: usize = 100;

/// The kind of a message, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Note,
    Warning,
    Result,
}

/// The state of a run.
pub(super) struct State {
    /// Model, recipe and backend.
    pub title: String,
    pub total: usize,
    pub last: Option<StepMetrics>,
    /// Steps and losses.
    pub losses: Vec<(f64, f64)>,
    /// The same, smoothed.
    pub smooth: Vec<(f64, f64)>,
    /// Steps and validation losses.
    pub validations: Vec<(f64, f64)>,
    pub messages: VecDeque<(Kind, String)>,
    /// When the first step of this process ended, and its number.
    first: Option<(Instant, usize)>,
    /// When the last step ended.
    ended: Instant,
    started: Instant,
    /// Whether the run ends after this step.
    pub is_stopping: bool,
}

impl State {
    pub fn new(title: String) -> Self {
        let now = Instant::now();
        Self {
            title,
            total: 0,
            last: None,
            losses: Vec::new(),
            smooth: Vec::new(),
            validations: Vec::new(),
            messages: VecDeque::new(),
            first: None,
            ended: now,
            started: now,
            is_stopping: false,
        }
    }

    /// Takes a step that ended at `now`.
    pub fn step(&mut self, metrics: &StepMetrics, total: usize, now: Instant) {
        self.total = total;
        self.first.get_or_insert((now, metrics.step));
        self.ended = now;
        if metrics.loss.is_finite() {
            let step = metrics.step as f64;
            self.losses.push((step, metrics.loss));
            // A moving mean over the last ten steps, or the last tenth of all.
            let count = self.losses.len() as f64;
            let share = 1.0 / count.min(10.0).max(count / 10.0);
            let last = self.smooth.last().map_or(metrics.loss, |(_, loss)| *loss);
            self.smooth.push((step, last + share * (metrics.loss - last)));
        }
        self.last = Some(metrics.clone());
    }

    pub fn message(&mut self, kind: Kind, text: &str) {
        if self.messages.len() == MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back((kind, text.to_owned()));
    }

    /// The number of the last step.
    pub fn step_number(&self) -> usize {
        self.last.as_ref().map_or(0, |last| last.step)
    }

    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// How long the remaining steps will take, as the last ones did. The first compiles kernels, and does not count if there are others.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let last = self.last.as_ref()?;
        let (first_ended, first) = self.first?;
        let each = match last.step - first {
            0 => Duration::from_secs_f64(last.step_ms.max(0.0) / 1e3),
            steps => (self.ended - first_ended).div_f64(steps as f64),
        };
        let left = each.mul_f64((self.total - last.step.min(self.total)) as f64);
        Some(left.saturating_sub(now.saturating_duration_since(self.ended)))
    }
}

/// At most `count` points: the means of equally long parts.
pub(super) fn thinned(points: &[(f64, f64)], count: usize) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(count.max(1)).max(1);
    let mean = |part: &[(f64, f64)]| {
        let length = part.len() as f64;
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / length, y / length)
    };
    points.chunks(each).map(mean).collect()
}

/// Hours, minutes and seconds.
pub(super) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step that took two seconds.
    pub(crate) fn step(number: usize, loss: f64) -> StepMetrics {
        let line = serde_json::json!({
            "step": number, "loss": loss, "learning_rate": 2e-4, "grad_norm": 0.8, "tokens": 4096, "tokens_per_second": 2048.0,
            "step_ms": 2000.0, "skipped": 0, "pool_bytes": 6_u64 << 30, "live_bytes": 5_u64 << 30, "budget_bytes": 12_u64 << 30,
        });
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn the_first_step_does_not_count_for_the_time_that_is_left() {
        let mut state = State::new(String::new());
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert!(state.left(at(0)).is_none());
        state.step(&step(11, 2.0), 20, at(60));
        assert_eq!(state.left(at(60)).unwrap().as_secs(), 18);
        state.step(&step(12, 2.0), 20, at(63));
        state.step(&step(13, 1.0), 20, at(66));
        assert_eq!(state.left(at(66)).unwrap().as_secs(), 21);
        assert_eq!(state.left(at(68)).unwrap().as_secs(), 19);
        assert_eq!(state.left(at(600)).unwrap().as_secs(), 0);
    }

    #[test]
    fn curves_are_thinned_by_means_and_messages_are_dropped() {
        let points: Vec<(f64, f64)> = (0..10).map(|index| (f64::from(index), f64::from(index) * 2.0)).collect();
        assert_eq!(thinned(&points, 100), points);
        assert_eq!(thinned(&points, 3), [(1.5, 3.0), (5.5, 11.0), (8.5, 17.0)]);
        assert!(thinned(&[], 0).is_empty());
        assert_eq!([59, 61, 3661].map(|seconds| clock(Duration::from_secs(seconds))), ["0:59", "1:01", "1:01:01"]);
        let mut state = State::new(String::new());
        (0..=MESSAGES).for_each(|index| state.message(Kind::Note, &index.to_string()));
        assert!(state.messages.len() == MESSAGES && state.messages[0].1 == "1");
    }
}
