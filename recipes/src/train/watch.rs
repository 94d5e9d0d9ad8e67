//! Notices what makes a run slow or useless while it goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use burnish_engine::gib;

use super::metrics::StepMetrics;
use crate::system::Strain;

/// How often the system is asked.
const EVERY: Duration = Duration::from_secs(30);
/// Swap that programs may take without a warning.
const SWAP: u64 = 1 << 30;
/// Steps after which the loss should have moved.
const LOSSES: usize = 100;
/// Steps in a row whose gradient is zero.
const ZEROS: usize = 10;

/// What has been seen so far. Each warning is given once.
pub(super) struct Watch {
    probe: Box<dyn FnMut() -> Strain + Send>,
    every: Duration,
    asked: Option<Instant>,
    swap_at_start: Option<u64>,
    losses: Vec<f64>,
    zeros: usize,
    told: BTreeSet<&'static str>,
}

impl Watch {
    pub fn new(probe: impl FnMut() -> Strain + Send + 'static) -> Self {
        Self {
            probe: Box::new(probe),
            every: EVERY,
            asked: None,
            swap_at_start: None,
            losses: Vec::new(),
            zeros: 0,
            told: BTreeSet::new(),
        }
    }

    /// The warnings after a step.
    pub fn after(&mut self, metrics: &StepMetrics) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.asked.is_none_or(|asked| asked.elapsed() >= self.every) {
            let strain = (self.probe)();
            self.asked = Some(Instant::now());
            warnings.extend(self.of_system(&strain));
        }
        warnings.extend(self.of_numbers(metrics));
        let fresh = warnings.into_iter().filter(|(kind, _)| self.told.insert(kind));
        fresh.map(|(_, warning)| warning).collect()
    }

    fn of_system(&mut self, strain: &Strain) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Some(used) = strain.swap_used_bytes {
            let start = *self.swap_at_start.get_or_insert(used);
            if used.saturating_sub(start) > SWAP {
                found.push((
                    "swap",
                    format!(
                        "swap grew by {} since the run began, which makes steps slow: close other programs, set grad_checkpoint, or \
                         lower batch_size or max_seq_length",
                        gib(used - start)
                    ),
                ));
            }
        }
        if strain.thermal_pressure.is_some_and(|level| level >= Strain::HEAVY) {
            found.push((
                "heat",
                "the Mac is hot and slows itself down, so steps get slower: give it more air, or close other programs"
                    .to_owned(),
            ));
        }
        if strain.low_power_mode == Some(true) {
            found.push((
                "power",
                "low-power mode is on, which makes steps slow: turn it off in System Settings, Battery, or plug the Mac in"
                    .to_owned(),
            ));
        }
        found
    }

    fn of_numbers(&mut self, metrics: &StepMetrics) -> Option<(&'static str, String)> {
        // A step that is skipped in f16 has none.
        self.zeros = if metrics.grad_norm.is_nan() || metrics.grad_norm.abs() > 0.0 { 0 } else { self.zeros + 1 };
        if self.zeros == ZEROS {
            let warning = format!(
                "the gradient was zero in {ZEROS} steps: nothing is learned; check target_modules, and that the rows have answers to \
                 learn"
            );
            return Some(("gradient", warning));
        }
        if self.losses.len() == LOSSES {
            return None;
        }
        self.losses.push(metrics.loss);
        let (first, last) = stands_still(&self.losses)?;
        Some((
            "loss",
            format!(
                "the loss has not moved in {LOSSES} steps ({first:.4}, then {last:.4}): raise learning_rate (now {:.1e}), or check that \
                 the rows have something to learn",
                metrics.learning_rate
            ),
        ))
    }
}

/// The means of both halves of the losses, if they are complete and neither differ by one part in a hundred nor by more than chance.
fn stands_still(losses: &[f64]) -> Option<(f64, f64)> {
    if losses.len() < LOSSES {
        return None;
    }
    let (first, last) = losses.split_at(LOSSES / 2);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let square_of_error = |part: &[f64]| {
        let mean = mean(part);
        part.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (part.len() * (part.len() - 1)) as f64
    };
    let (before, after) = (mean(first), mean(last));
    let chance = 2.0 * (square_of_error(first) + square_of_error(last)).sqrt();
    let moved = (after - before).abs();
    (moved < 0.01 * before.abs() && moved <= chance.max(1e-4 * before.abs())).then_some((before, after))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn step(step: usize, loss: f64, grad_norm: f64) -> StepMetrics {
        let line = serde_json::json!({
            "step": step, "loss": loss, "learning_rate": 1e-7, "grad_norm": grad_norm, "tokens": 1, "tokens_per_second": 1.0,
            "step_ms": 1.0, "skipped": 0,
        });
        serde_json::from_value(line).unwrap()
    }

    /// The warnings of a run with these losses.
    fn of_losses(losses: impl Iterator<Item = f64>) -> Vec<String> {
        let mut watch = Watch::new(Strain::default);
        losses.enumerate().flat_map(|(index, loss)| watch.after(&step(index + 1, loss, 1.0))).collect()
    }

    #[test]
    fn each_strain_of_the_machine_is_told_once() {
        let now = Arc::new(Mutex::new(Strain { swap_used_bytes: Some(5 << 30), ..Strain::default() }));
        let asked = now.clone();
        let mut watch = Watch { every: Duration::ZERO, ..Watch::new(move || *asked.lock().unwrap()) };
        let mut after = |swap: u64, heat: u8, low_power: bool| {
            *now.lock().unwrap() =
                Strain { swap_used_bytes: Some(swap), thermal_pressure: Some(heat), low_power_mode: Some(low_power) };
            watch.after(&step(1, 1.0, 1.0)).join("\n")
        };
        assert_eq!(after(5 << 30, 0, false), "");
        assert_eq!(after(6 << 30, Strain::HEAVY - 1, false), "");
        assert!(after((6 << 30) + 1, 0, false).starts_with("swap grew by 1.00 GiB"));
        assert!(after(9 << 30, Strain::HEAVY, false).starts_with("the Mac is hot"));
        assert!(after(9 << 30, Strain::HEAVY, true).starts_with("low-power mode is on"));
        assert_eq!(after(9 << 30, 4, true), "");
    }

    #[test]
    fn the_system_is_not_asked_after_every_step() {
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let mut watch = Watch::new(move || {
            *count.lock().unwrap() += 1;
            Strain::default()
        });
        (1..20).for_each(|index| drop(watch.after(&step(index, 1.0, 1.0))));
        assert_eq!(*asked.lock().unwrap(), 1);
    }

    #[test]
    fn a_loss_that_stands_still_is_told_and_one_that_falls_slowly_is_not() {
        let noise = |index: usize| ((index * 7919) % 101) as f64 / 100.0 - 0.5;
        let still = of_losses((0..300).map(|index| 2.5 + 0.2 * noise(index)));
        assert!(still.len() == 1 && still[0].starts_with("the loss has not moved in 100 steps (2."), "{still:?}");
        assert!(still[0].contains("now 1.0e-7"), "{still:?}");
        assert_eq!(of_losses((0..300).map(|_| 2.5)).len(), 1);
        assert!(of_losses((0..300).map(|index| 2.5 - 0.002 * index as f64 + 0.2 * noise(index))).is_empty());
        assert!(of_losses((0..99).map(|_| 2.5)).is_empty());
    }

    #[test]
    fn a_gradient_of_zero_is_told() {
        let mut watch = Watch::new(Strain::default);
        let told: Vec<String> =
            (1..40).flat_map(|index| watch.after(&step(index, 2.0 - 0.01 * index as f64, 0.0))).collect();
        assert!(told.len() == 1 && told[0].starts_with("the gradient was zero in 10 steps"), "{told:?}");
    }
}
