//! How long the parts of a step take on the device.

use std::time::Instant;

use burn::tensor::backend::Backend;

/// The seconds that the parts of a step took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepTimes {
    /// Losses, with those of a reference model.
    pub forward: f64,
    /// Gradients; with checkpointing also the blocks that are computed again.
    pub backward: f64,
    /// Gradient norm and update.
    pub optimizer: f64,
}

/// Measures the parts of a step. Only if it is on, it waits for the device after each.
pub(crate) struct Stopwatch(Option<Instant>);

impl Stopwatch {
    /// Starts when the device has nothing left to do.
    pub fn start<B: Backend>(is_on: bool, device: &B::Device) -> Self {
        let mut stopwatch = Self(is_on.then(Instant::now));
        stopwatch.lap::<B>(device);
        stopwatch
    }

    /// The seconds since the last call; 0 if it is off.
    pub fn lap<B: Backend>(&mut self, device: &B::Device) -> f64 {
        let Some(last) = self.0 else { return 0.0 };
        // A device that failed says so when the loss is read.
        B::sync(device).ok();
        let now = Instant::now();
        self.0 = Some(now);
        (now - last).as_secs_f64()
    }
}
