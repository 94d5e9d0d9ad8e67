//! Reports how far the preparation of rows is.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::OutputStyle;
use crate::data::Progress;

/// Nothing is shown of what takes less time than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two lines where output is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Reports the preparation of rows: as a progress bar in a terminal, as a line now and then elsewhere.
pub struct RowsReport {
    style: OutputStyle,
    state: RefCell<State>,
}

struct State {
    bar: Option<ProgressBar>,
    /// When the file was begun.
    started: Instant,
    said: Instant,
    last: Option<Progress>,
}

impl RowsReport {
    /// A report in a style.
    pub fn new(style: OutputStyle) -> Self {
        let now = Instant::now();
        Self { style, state: RefCell::new(State { bar: None, started: now, said: now, last: None }) }
    }

    /// Takes note of the progress.
    pub fn take(&self, progress: Progress) {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        let begins = state.last.is_none_or(|last| last.bytes > progress.bytes || last.compares != progress.compares);
        if begins {
            state.close();
            (state.started, state.said) = (now, now);
        }
        state.last = Some(progress);
        if self.style.json || self.style.quiet || now - state.started < PATIENCE || progress.compares {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = state.bar.get_or_insert_with(|| bar(progress.of_bytes));
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} rows prepared", progress.rows));
        } else if now - state.said >= BETWEEN_LINES {
            state.said = now;
            let share = 100 * progress.bytes / progress.of_bytes.max(1);
            self.style.say(format!("preparing rows: {}, {share} % of the file", progress.rows));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.state.borrow_mut().close();
    }
}

impl State {
    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} [{elapsed}<{eta}] {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
