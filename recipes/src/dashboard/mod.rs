//! The dashboard of `burnish train --tui`, which fills the terminal.

mod state;
mod view;

use std::io::{Stdout, Write, stdout};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn_train::Interrupter;
use burnish_models::atomic;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

use crate::train::{Evaluation, Events, StepMetrics, TimingSums};
use state::{Kind, State};

/// How often keys are read and the screen is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// Whether the terminal is ours.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back, if a dashboard has it: before a panic is printed, or the program exits.
pub fn restore() {
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        disable_raw_mode().ok();
        execute!(stdout(), LeaveAlternateScreen, Show).ok();
        stdout().flush().ok();
    }
}

/// Shows the events of a run.
pub struct Dashboard {
    state: Arc<Mutex<State>>,
    is_done: Arc<AtomicBool>,
    screen: Option<JoinHandle<()>>,
    /// Printed when the terminal is given back.
    kept: Vec<String>,
    timings: TimingSums,
}

impl Dashboard {
    /// Takes the terminal. The keys `q` and Ctrl-C stop the run through the interrupter; a second one exits at once.
    ///
    /// # Errors
    /// When the terminal can't be taken.
    pub fn open(title: String, interrupter: Interrupter) -> Result<Self> {
        IS_OPEN.store(true, Ordering::SeqCst);
        let opened = enable_raw_mode().and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide));
        let terminal = opened.and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        let terminal = match terminal.context("can't use the terminal") {
            Ok(terminal) => terminal,
            Err(error) => {
                restore();
                return Err(error);
            }
        };
        let state = Arc::new(Mutex::new(State::new(title)));
        let is_done = Arc::new(AtomicBool::new(false));
        let (shown, done) = (state.clone(), is_done.clone());
        let screen = std::thread::spawn(move || show(terminal, &shown, &done, &interrupter));
        Ok(Self { state, is_done, screen: Some(screen), kept: Vec::new(), timings: TimingSums::default() })
    }

    /// Gives the terminal back, and returns what should be printed now.
    pub fn close(&mut self) -> Vec<String> {
        self.is_done.store(true, Ordering::SeqCst);
        if let Some(screen) = self.screen.take() {
            // It has no result, and a panic was printed.
            screen.join().ok();
        }
        restore();
        std::mem::take(&mut self.kept)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.close();
    }
}

impl Events for Dashboard {
    fn step(&mut self, metrics: &StepMetrics, total: usize) {
        if let Some(timings) = &metrics.timings {
            self.timings.add(timings, metrics.step_ms);
        }
        self.state().step(metrics, total, Instant::now());
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool) {
        let mut state = self.state();
        if evaluation.loss.is_finite() {
            state.validations.push((step as f64, evaluation.loss));
        }
        let remark = if best { ", best so far" } else { "" };
        state.message(Kind::Result, &format!("step {step}: validation loss {:.4}{remark}", evaluation.loss));
    }

    fn checkpoint(&mut self, path: &Path) {
        self.state().message(Kind::Result, &format!("saved {}", path.display()));
    }

    fn note(&mut self, line: &str) {
        self.state().message(Kind::Note, line);
    }

    fn warning(&mut self, line: &str) {
        self.kept.push(format!("warning: {line}"));
        self.state().message(Kind::Warning, line);
    }

    fn end(&mut self, _finished: bool) {
        self.kept.extend(self.timings.lines());
    }
}

/// Draws the state and reads keys until the run is done.
fn show(
    mut terminal: Terminal<CrosstermBackend<Stdout>>,
    state: &Mutex<State>,
    is_done: &AtomicBool,
    interrupter: &Interrupter,
) {
    while !is_done.load(Ordering::SeqCst) && IS_OPEN.load(Ordering::SeqCst) {
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_stopping = interrupter.should_stop();
            // A frame that can't be drawn is drawn again soon.
            terminal.draw(|frame| view::draw(frame, &state, Instant::now())).ok();
        }
        match event::poll(FRAME) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => {
                std::thread::sleep(FRAME);
                continue;
            }
        }
        if event::read().is_ok_and(|event| is_leave(&event)) {
            if interrupter.should_stop() {
                restore();
                atomic::abandon();
                std::process::exit(1);
            }
            interrupter.stop(Some("interrupted"));
        }
    }
}

/// Whether a key asks to leave: raw mode makes Ctrl-C a key.
fn is_leave(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_interrupt || matches!(key.code, KeyCode::Char('q' | 'Q')))
}
