//! How many steps of generation are queued before the host waits for the device.

use std::time::{Duration, Instant};

use burnish_kernels::FusedBackend;

/// Most steps at a time.
const MOST: usize = 8;

/// Steps are queued for about this long, so that text still flows.
const LENGTH: Duration = Duration::from_millis(30);

/// The number of steps to queue: more where they are short. While the host waits for a token, the device has nothing to do, and the other
/// way round.
#[derive(Debug, Clone)]
pub(super) struct Bursts {
    count: usize,
    most: usize,
}

impl Bursts {
    /// For a backend: one step at a time where nothing is queued.
    pub fn of<B: FusedBackend>() -> Self {
        Self { count: 1, most: if B::QUEUES { MOST } else { 1 } }
    }

    /// Always so many.
    #[cfg(test)]
    pub fn fixed(count: usize) -> Self {
        Self { count, most: 0 }
    }

    /// Runs `steps` with a number of steps, at most `left`, and chooses the next number by the time they took.
    pub fn queue<T>(&mut self, left: usize, steps: impl FnOnce(usize) -> Vec<T>) -> Vec<T> {
        let started = Instant::now();
        let done = steps(self.count.min(left));
        if self.most > 0 {
            self.count = self.next(started.elapsed(), done.len());
        }
        done
    }

    /// The number of steps to queue after so many that took so long.
    fn next(&self, elapsed: Duration, done: usize) -> usize {
        let each = elapsed / done.max(1) as u32;
        let fit = (LENGTH.as_nanos() / each.as_nanos().max(1)) as usize;
        fit.clamp(1, self.most.min(2 * self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_steps_are_queued_together_and_long_ones_are_not() {
        let after = |count: usize, milliseconds: u64| {
            let bursts = Bursts { count, most: MOST };
            bursts.next(Duration::from_millis(milliseconds), count)
        };
        // Of 2 ms each, then of 10 ms each, and of a second.
        assert_eq!([after(1, 2), after(2, 4), after(4, 8), after(8, 16)], [2, 4, 8, 8]);
        assert_eq!([after(8, 80), after(1, 1000), after(8, 8000)], [3, 1, 1]);
    }

    #[test]
    fn no_more_steps_run_than_are_left() {
        let mut bursts = Bursts { count: 8, most: MOST };
        assert_eq!(bursts.queue(3, |count| vec![(); count]).len(), 3);
    }
}
