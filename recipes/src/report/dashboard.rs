//! burn-train's dashboard, with a working Ctrl-C.

use burn_train::metric::MetricDefinition;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::renderer::{
    EvaluationName, EvaluationProgress, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
    ProgressType, TrainingProgress,
};
use burn_train::{Interrupter, LearnerSummary};

/// A dashboard that fills the terminal.
pub struct Dashboard(TuiMetricsRendererWrapper);

impl Dashboard {
    /// Takes over the terminal; the key `q` stops the run through the interrupter.
    pub fn new(interrupter: Interrupter) -> Self {
        Self(TuiMetricsRendererWrapper::new(interrupter, None))
    }
}

/// Makes Ctrl-C a signal again: the dashboard's raw mode turns that off, and ignores the key.
#[cfg(unix)]
fn let_signals_through() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = std::io::stdin();
    let Ok(mut modes) = tcgetattr(&terminal) else { return };
    let is_raw = !modes.local_modes.contains(LocalModes::ICANON);
    if is_raw && !modes.local_modes.contains(LocalModes::ISIG) {
        modes.local_modes.insert(LocalModes::ISIG);
        // If this fails, `q` still works.
        tcsetattr(&terminal, OptionalActions::Now, &modes).ok();
    }
}

#[cfg(not(unix))]
fn let_signals_through() {}

impl MetricsRendererTraining for Dashboard {
    fn update_train(&mut self, state: MetricState) {
        self.0.update_train(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.0.update_valid(state);
    }

    fn render_train(&mut self, item: TrainingProgress, indicators: Vec<ProgressType>) {
        let_signals_through();
        self.0.render_train(item, indicators);
    }

    fn render_valid(&mut self, item: TrainingProgress, indicators: Vec<ProgressType>) {
        self.0.render_valid(item, indicators);
    }

    fn on_train_end(&mut self, summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        self.0.on_train_end(summary)
    }
}

impl MetricsRendererEvaluation for Dashboard {
    fn update_test(&mut self, name: EvaluationName, state: MetricState) {
        self.0.update_test(name, state);
    }

    fn render_test(&mut self, item: EvaluationProgress, indicators: Vec<ProgressType>) {
        self.0.render_test(item, indicators);
    }
}

impl MetricsRenderer for Dashboard {
    fn manual_close(&mut self) {
        self.0.manual_close();
    }

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.0.register_metric(definition);
    }
}
