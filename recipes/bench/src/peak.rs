//! How much memory a run takes at most.

use burnish_kernels::FusedBackend;
use serde::Serialize;

use super::stopwatch::wait;
use burnish_engine::bytes::peak_bytes;

/// Most memory that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Bytes.
    pub bytes: u64,
    /// Of what.
    pub of: MemoryOf,
}

/// What a number of bytes is counted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryOf {
    /// What the backend took from its device, pools included.
    Device,
    /// The resident memory of this process: the backend does not say what is its own.
    Process,
}

/// Follows the memory of a device, or of the process where the device does not tell.
#[derive(Debug)]
pub struct MemoryWatch {
    peak: Option<Peak>,
}

impl MemoryWatch {
    /// Lets go of what the pools hold unused, and starts anew.
    pub fn new<B: FusedBackend>(device: &B::Device) -> Self {
        B::memory_cleanup(device);
        wait::<B>(device).ok();
        // Linux: lets the process' peak fall to what it holds now.
        std::fs::write("/proc/self/clear_refs", "5").ok();
        Self { peak: None }
    }

    /// Looks, and keeps the larger. Call it when a step has ended: pools keep what the step had.
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
        Some(memory) => Some(Peak { bytes: memory.reserved, of: MemoryOf::Device }),
        None => Some(Peak { bytes: peak_bytes()?, of: MemoryOf::Process }),
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_backend_that_does_not_tell_counts_the_process() {
        let mut watch = MemoryWatch::new::<Flex>(&Default::default());
        assert_eq!(watch.peak(), None);
        watch.look::<Flex>(&Default::default());
        let peak = watch.peak().unwrap();
        assert!(peak.of == MemoryOf::Process && peak.bytes > 1 << 20, "{peak:?}");
    }
}
