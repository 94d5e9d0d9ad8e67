//! Dynamic loss scaling, which keeps small f16 gradients from vanishing.

use serde::{Deserialize, Serialize};

use crate::trainer::Numbers;

/// The initial scale.
const START: f64 = 65_536.0;
/// Consecutive applied steps after which the scale doubles.
const GROWTH_INTERVAL: usize = 2_000;
/// Consecutive skipped steps after which a lower scale is given up on.
const MOST_SKIPPED: usize = 20;

/// A dynamic loss scale: the loss is multiplied by it before the backward pass, and the gradients are divided by it in the update.
/// When gradients overflow, the step is skipped and the scale halved; after many steps without overflow it is doubled.
///
/// The scale is a power of 2, so that multiplying and dividing by it do not round.
///
/// # Source
/// Micikevicius et al. 2018, "Mixed Precision Training"; `torch.amp.GradScaler`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The scale.
    pub scale: f64,
    /// Applied steps since the scale last changed.
    pub clean_steps: usize,
    /// Skipped steps since the last applied one.
    pub skipped_in_a_row: usize,
}

/// Whether a step is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was applied.
    Taken,
    /// Its gradient overflowed: it changed nothing, and the scale was halved.
    Skipped,
    /// Its loss or gradient is not finite, and a lower scale can't help.
    Broken,
}

impl Verdict {
    /// Judges a step by its loss and gradient norm, and updates the loss scale if there is one.
    pub fn of(numbers: Numbers, loss_scale: Option<&mut LossScale>) -> Self {
        match loss_scale {
            Some(loss_scale) if numbers.are_finite() => {
                loss_scale.step_taken();
                Self::Taken
            }
            // `numbers.loss` is not scaled, so if it is not finite, the scale is not the reason.
            Some(loss_scale) if numbers.loss.is_finite() => {
                loss_scale.step_skipped();
                if loss_scale.is_exhausted() { Self::Broken } else { Self::Skipped }
            }
            _ if numbers.are_finite() => Self::Taken,
            _ => Self::Broken,
        }
    }
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: START, clean_steps: 0, skipped_in_a_row: 0 }
    }
}

impl LossScale {
    /// Records a step with finite gradients.
    pub fn step_taken(&mut self) {
        self.skipped_in_a_row = 0;
        self.clean_steps += 1;
        if self.clean_steps == GROWTH_INTERVAL {
            self.scale *= 2.0;
            self.clean_steps = 0;
        }
    }

    /// Records a step whose gradients overflowed.
    pub fn step_skipped(&mut self) {
        self.scale *= 0.5;
        self.clean_steps = 0;
        self.skipped_in_a_row += 1;
    }

    /// Whether lowering the scale further can't help.
    pub fn is_exhausted(&self) -> bool {
        self.scale < 1.0 || self.skipped_in_a_row >= MOST_SKIPPED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_the_scale_and_many_clean_steps_double_it() {
        let mut scale = LossScale::default();
        scale.step_skipped();
        assert_eq!(scale, LossScale { scale: 32_768.0, clean_steps: 0, skipped_in_a_row: 1 });
        for _ in 0..1_999 {
            scale.step_taken();
        }
        assert_eq!(scale, LossScale { scale: 32_768.0, clean_steps: 1_999, skipped_in_a_row: 0 });
        scale.step_taken();
        assert_eq!(scale, LossScale { scale: 65_536.0, clean_steps: 0, skipped_in_a_row: 0 });
        // Steps count from the last change.
        scale.step_taken();
        scale.step_skipped();
        assert_eq!(scale, LossScale { scale: 32_768.0, clean_steps: 0, skipped_in_a_row: 1 });
    }

    #[test]
    fn a_step_is_judged_by_its_loss_and_gradient_norm() {
        let numbers = |loss, grad_norm| Numbers { loss, grad_norm };
        let (fine, overflowed, lost) = (numbers(1.0, 2.0), numbers(1.0, f64::INFINITY), numbers(f64::NAN, f64::NAN));
        assert_eq!(
            [fine, overflowed, lost].map(|numbers| Verdict::of(numbers, None)),
            [Verdict::Taken, Verdict::Broken, Verdict::Broken]
        );
        let mut scale = LossScale::default();
        assert_eq!(Verdict::of(fine, Some(&mut scale)), Verdict::Taken);
        assert_eq!(Verdict::of(overflowed, Some(&mut scale)), Verdict::Skipped);
        assert_eq!(Verdict::of(lost, Some(&mut scale)), Verdict::Broken);
        assert_eq!((scale.scale, scale.skipped_in_a_row), (32_768.0, 1));
        scale.skipped_in_a_row = MOST_SKIPPED - 1;
        assert_eq!(Verdict::of(overflowed, Some(&mut scale)), Verdict::Broken);
    }

    #[test]
    fn the_scale_is_exhausted_below_one_and_after_many_skipped_steps() {
        let exhausted_after = |scale: &mut LossScale| {
            (1..100).find(|_| {
                scale.step_skipped();
                scale.is_exhausted()
            })
        };
        let mut scale = LossScale::default();
        assert_eq!(exhausted_after(&mut scale), Some(17));
        assert!((scale.scale - 0.5).abs() < 1e-12);
        let mut scale = LossScale { scale: 2f64.powi(40), ..LossScale::default() };
        assert_eq!(exhausted_after(&mut scale), Some(20));
    }
}
