//! How long a launch takes.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use burn::tensor::backend::Backend;
use serde::Serialize;

use burnish_engine::failure;

/// How often something is measured.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Samples at most.
    pub repeats: usize,
    /// Launches before the first sample.
    pub warmup: usize,
    /// No further sample begins after this long, once there are three.
    pub budget: Duration,
    /// Launches go on for so long before the first sample: a GPU that waited for a compiler raises its clocks again.
    pub settle: Duration,
}

/// Samples that are taken, whatever they cost.
const LEAST_SAMPLES: usize = 3;

/// A sample holds enough launches that waiting for the device, some tenths of a millisecond, does not count.
const SAMPLE: Duration = Duration::from_millis(20);
/// Most launches of a sample: the time of very short ones is that of handing them over, not of running them.
const MOST_LAUNCHES: f64 = 2_000.0;

/// What was measured of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// The first launch, with all that is compiled and tuned in it.
    pub first_ms: f64,
    /// Median of the samples, per launch.
    pub ms: f64,
    /// The fastest and the slowest sample, per launch.
    pub range_ms: [f64; 2],
    /// Samples taken.
    pub samples: usize,
    /// Launches of a sample.
    pub launches: usize,
}

impl Pace {
    /// Whether another sample is due.
    pub fn wants_more(&self, samples: usize, started: Instant) -> bool {
        samples < LEAST_SAMPLES.min(self.repeats) || (samples < self.repeats && started.elapsed() < self.budget)
    }

    /// Times a launch: one alone, some to warm up and settle, then samples of several launches and one wait each.
    ///
    /// # Errors
    /// What broke on the device.
    pub fn time<B: Backend>(&self, device: &B::Device, launch: &mut dyn FnMut()) -> Result<Timing> {
        let mut sample = |launches: usize| -> Result<Duration> {
            let started = Instant::now();
            for _ in 0..launches {
                launch();
            }
            wait::<B>(device)?;
            Ok(started.elapsed())
        };
        sample(0)?;
        let first = sample(1)?;
        let mut launches = self.warmup.max(1);
        // Few launches hide behind the wait for them: how many fill a sample shows once there are more.
        for _ in 0..2 {
            let each = sample(launches)?.as_secs_f64() / launches as f64;
            launches = (SAMPLE.as_secs_f64() / each.max(1e-9)).ceil().clamp(1.0, MOST_LAUNCHES) as usize;
        }
        let settling = Instant::now();
        while settling.elapsed() < self.settle {
            sample(launches)?;
        }
        let (mut samples, started) = (Vec::new(), Instant::now());
        while self.wants_more(samples.len(), started) {
            samples.push(milliseconds(sample(launches)?) / launches as f64);
        }
        let ms = median(&mut samples);
        let range_ms = [samples.first(), samples.last()].map(|end| end.copied().unwrap_or(ms));
        Ok(Timing { first_ms: milliseconds(first), ms, range_ms, samples: samples.len(), launches })
    }
}

/// Waits until the device is done.
///
/// # Errors
/// What broke on it.
pub fn wait<B: Backend>(device: &B::Device) -> Result<()> {
    B::sync(device).map_err(|error| anyhow!(failure(error)))
}

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The median of some numbers, which are sorted; 0 of none.
pub fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers {
        [] => 0.0,
        numbers if numbers.len().is_multiple_of(2) => f64::midpoint(numbers[middle - 1], numbers[middle]),
        numbers => numbers[middle],
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&mut []).abs() < 1e-12);
    }

    #[test]
    fn a_launch_is_timed_and_counted() {
        let pace = Pace { repeats: 5, warmup: 2, budget: Duration::from_secs(5), settle: Duration::ZERO };
        let mut count = 0;
        let mut launch = || {
            count += 1;
            std::thread::sleep(Duration::from_millis(25));
        };
        let timing = pace.time::<Flex>(&Default::default(), &mut launch).unwrap();
        assert!(timing.ms >= 25.0 && timing.first_ms >= 25.0);
        assert_eq!((timing.samples, timing.launches, count), (5, 1, 1 + 2 + 1 + 5));
        assert!(timing.range_ms[0] <= timing.ms && timing.ms <= timing.range_ms[1]);
    }

    #[test]
    fn launches_go_on_until_the_device_has_settled() {
        let pace = Pace { repeats: 1, warmup: 1, budget: Duration::ZERO, settle: Duration::from_millis(60) };
        let mut count = 0;
        let mut launch = || {
            count += 1;
            std::thread::sleep(Duration::from_millis(25));
        };
        pace.time::<Flex>(&Default::default(), &mut launch).unwrap();
        // The first, two to warm up, 60 ms of them, a sample.
        assert!((5..=7).contains(&count), "{count}");
    }

    #[test]
    fn a_budget_ends_the_samples() {
        let pace = Pace { repeats: 100, warmup: 0, budget: Duration::ZERO, settle: Duration::ZERO };
        let timing = pace.time::<Flex>(&Default::default(), &mut || std::thread::sleep(Duration::from_millis(1))).unwrap();
        assert_eq!(timing.samples, 3);
    }
}
