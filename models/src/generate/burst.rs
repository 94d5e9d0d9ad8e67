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
            let each = started.elapsed() / done.len().max(1) as u32;
            let fit = (LENGTH.as_nanos() / each.as_nanos().max(1)) as usize;
            self.count = fit.clamp(1, self.most.min(2 * self.count));
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn short_steps_are_queued_together_and_long_ones_are_not() {
        let mut bursts = Bursts { count: 1, most: MOST };
        let fast: Vec<usize> = (0..5).map(|_| bursts.queue(100, |count| vec![(); count]).len()).collect();
        assert_eq!(fast, [1, 2, 4, 8, 8]);
        assert_eq!(bursts.queue(3, |count| vec![(); count]).len(), 3);
        bursts.queue(100, |_| {
            sleep(LENGTH);
            vec![()]
        });
        assert_eq!(bursts.count, 1);
    }
}
