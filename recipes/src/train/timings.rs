//! What the parts of a step take, if the run measures them.

use serde::{Deserialize, Serialize};

/// Milliseconds of the parts of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Rows to batches.
    pub data_ms: f64,
    /// Losses, with those of a reference model.
    pub forward_ms: f64,
    /// Gradients; with `grad_checkpoint` also the blocks that are computed again.
    pub backward_ms: f64,
    /// Gradient norm and update.
    pub optimizer_ms: f64,
    /// Reading loss and gradient norm back.
    pub wait_ms: f64,
}

impl Timings {
    /// The parts, with their names.
    pub fn parts(&self) -> [(&'static str, f64); 5] {
        [
            ("data", self.data_ms),
            ("forward", self.forward_ms),
            ("backward", self.backward_ms),
            ("optimizer", self.optimizer_ms),
            ("wait", self.wait_ms),
        ]
    }
}

/// The timings of many steps together.
#[derive(Debug, Clone, Default)]
pub struct TimingSums {
    parts: Timings,
    /// Whole steps, with their data.
    whole_ms: f64,
    steps: usize,
    /// Whether a step was left out.
    has_begun: bool,
}

impl TimingSums {
    /// Adds a step. The first is left out, since it compiles kernels.
    pub fn add(&mut self, timings: &Timings, step_ms: f64) {
        if !std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let parts = &mut self.parts;
        parts.data_ms += timings.data_ms;
        parts.forward_ms += timings.forward_ms;
        parts.backward_ms += timings.backward_ms;
        parts.optimizer_ms += timings.optimizer_ms;
        parts.wait_ms += timings.wait_ms;
        self.whole_ms += step_ms + timings.data_ms;
        self.steps += 1;
    }

    /// A table of the means, as lines; empty without steps.
    pub fn lines(&self) -> Vec<String> {
        if self.steps == 0 {
            return Vec::new();
        }
        let named: f64 = self.parts.parts().iter().map(|(_, ms)| ms).sum();
        let other = [("other", (self.whole_ms - named).max(0.0)), ("step", self.whole_ms)];
        let (steps, whole) = (self.steps as f64, self.whole_ms.max(f64::MIN_POSITIVE));
        let line = |(name, ms): (&str, f64)| format!("  {name:9} {:9.2} ms {:5.1} %", ms / steps, 100.0 * ms / whole);
        let title = match self.steps {
            1 => "the second step took:".to_owned(),
            steps => format!("a step took, on average over {steps}:"),
        };
        std::iter::once(title).chain(self.parts.parts().into_iter().chain(other).map(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_means_and_shares_without_the_first_step() {
        let step = Timings { data_ms: 1.0, forward_ms: 30.0, backward_ms: 50.0, optimizer_ms: 10.0, wait_ms: 2.0 };
        let mut sums = TimingSums::default();
        assert!(sums.lines().is_empty());
        sums.add(&Timings { forward_ms: 5000.0, ..step }, 6000.0);
        assert!(sums.lines().is_empty());
        sums.add(&step, 99.0);
        sums.add(&Timings { forward_ms: 34.0, ..step }, 99.0);
        let lines = sums.lines();
        assert_eq!(lines[0], "a step took, on average over 2:");
        assert_eq!(lines[2], "  forward       32.00 ms  32.0 %");
        assert_eq!(lines[6], "  other          5.00 ms   5.0 %");
        assert_eq!(lines[7], "  step         100.00 ms 100.0 %");
    }
}
