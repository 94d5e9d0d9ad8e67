//! The most memory that a run held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use burnish_kernels::FusedBackend;
use serde::Serialize;

use super::stopwatch::wait;
use burnish_engine::bytes::peak_bytes;

/// Most memory that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Bytes.
    pub bytes: u64,
    /// What they are.
    pub of: MemoryOf,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryOf {
    /// What the backend took from its device: its pool, free parts included. torch's `max_memory_allocated` counts live tensors only.
    Pool,
    /// Resident memory of this process, where the backend does not know what it holds.
    Resident,
}

/// Follows the memory of a device, or of the process where the backend does not know it.
#[derive(Debug)]
pub struct MemoryWatch {
    peak: Option<Peak>,
}

impl MemoryWatch {
    /// Frees what the pools hold unused, and starts from there.
    pub fn new<B: FusedBackend>(device: &B::Device) -> Self {
        B::memory_cleanup(device);
        wait::<B>(device).ok();
        // Linux: resets the peak of the process to what it holds now. Elsewhere the peak is that of the whole process.
        std::fs::write("/proc/self/clear_refs", "5").ok();
        Self { peak: None }
    }

    /// Samples the memory and keeps the maximum. Call it after a step: pools keep what the step took.
    pub fn look<B: FusedBackend>(&mut self, device: &B::Device) {
        let now = held::<B>(device);
        self.peak = match (self.peak, now) {
            (Some(peak), Some(now)) if peak.bytes >= now.bytes => Some(peak),
            (peak, now) => now.or(peak),
        };
    }

    /// The most that was seen.
    pub fn peak(&self) -> Option<Peak> {
        self.peak
    }
}

fn held<B: FusedBackend>(device: &B::Device) -> Option<Peak> {
    match B::device_memory(device) {
        Some(memory) => Some(Peak { bytes: memory.reserved, of: MemoryOf::Pool }),
        None => Some(Peak { bytes: peak_bytes()?, of: MemoryOf::Resident }),
    }
}

/// How long samples of live memory are apart.
const SAMPLES_APART: Duration = Duration::from_micros(500);

/// Does some work, and follows the memory of the device's live tensors from another thread in the meantime; returns the most that was
/// seen, where the backend reports it. Samples and work alternate on the device's own thread, so the work takes longer.
///
/// # Errors
/// Those of the work.
pub fn live_peak<B: FusedBackend>(device: &B::Device, work: impl FnOnce() -> Result<()>) -> Result<Option<u64>> {
    let Some(probe) = B::memory_probe(device) else {
        work()?;
        return Ok(None);
    };
    let is_done = AtomicBool::new(false);
    let (done, seen) = std::thread::scope(|scope| {
        let is_done = &is_done;
        let sampler = scope.spawn(move || {
            let mut most = 0;
            while !is_done.load(Ordering::Acquire) {
                most = most.max(probe().map_or(0, |memory| memory.in_use));
                // A device answers between its kernels: without a pause it would do nothing else.
                std::thread::sleep(SAMPLES_APART);
            }
            most
        });
        let done = work().and_then(|()| wait::<B>(device));
        is_done.store(true, Ordering::Release);
        (done, sampler.join())
    });
    done?;
    Ok(seen.ok().filter(|most| *most > 0))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_backend_that_does_not_know_counts_the_process() {
        let mut watch = MemoryWatch::new::<Flex>(&Default::default());
        assert_eq!(watch.peak(), None);
        watch.look::<Flex>(&Default::default());
        let peak = watch.peak().unwrap();
        assert!(peak.of == MemoryOf::Resident && peak.bytes > 1 << 20, "{peak:?}");
    }
}
