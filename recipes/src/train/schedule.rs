//! The learning-rate schedule.

use crate::config::{LrScheduler, TrainConfig};

/// The learning rate of every optimizer step: a linear warm-up from zero, then the chosen scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    kind: LrScheduler,
    peak: f64,
    warmup: usize,
    total: usize,
    /// Steps taken.
    step: usize,
}

impl Schedule {
    /// The schedule of a run of `total` steps, `done` of which were taken.
    pub fn new(config: &TrainConfig, total: usize, done: usize) -> Self {
        let warmup = if config.warmup < 1.0 { (config.warmup * total as f64).ceil() } else { config.warmup };
        Self { kind: config.lr_scheduler, peak: config.learning_rate, warmup: warmup as usize, total, step: done }
    }

    /// The rate of a step, counted from 1.
    ///
    /// # Source
    /// `get_{constant,linear,cosine}_schedule_with_warmup` of transformers 5. There the first step of a warm-up has rate `0`; here
    /// step `s` has `s / warmup`, so that no step is wasted.
    pub fn rate(&self, step: usize) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        let past = (step - self.warmup - 1) as f64;
        let whole = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = (past / whole).min(1.0);
        match self.kind {
            LrScheduler::Constant => self.peak,
            LrScheduler::Linear => self.peak * (1.0 - progress),
            LrScheduler::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }

    /// Advances by one step, and returns its rate.
    pub fn next_rate(&mut self) -> f64 {
        self.step += 1;
        self.rate(self.step)
    }

    /// Steps taken.
    pub fn taken(&self) -> usize {
        self.step
    }

    /// The same schedule after `step` steps.
    #[must_use]
    pub fn after(self, step: usize) -> Self {
        Self { step, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: LrScheduler, warmup: f64) -> Vec<f64> {
        let config = TrainConfig { lr_scheduler: kind, learning_rate: 1.0, warmup, ..TrainConfig::default() };
        let schedule = Schedule::new(&config, 10, 0);
        (1..=10).map(|step| schedule.rate(step)).collect()
    }

    #[test]
    fn the_rate_rises_to_the_peak_and_then_falls() {
        let linear = rates(LrScheduler::Linear, 4.0);
        assert_eq!(linear[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!(linear[5..].windows(2).all(|pair| pair[1] < pair[0]) && linear[9] > 0.0);
        assert_eq!(rates(LrScheduler::Linear, 0.4), linear);
        assert_eq!(rates(LrScheduler::Constant, 0.0), [1.0; 10]);
        let cosine = rates(LrScheduler::Cosine, 0.0);
        assert!((cosine[5] - 0.5).abs() < 1e-12 && (cosine[0] - 1.0).abs() < 1e-12);
    }
}
