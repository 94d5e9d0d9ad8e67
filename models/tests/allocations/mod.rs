//! Counts every allocation of the process. Tests of other crates include this file by its path.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most of them since [`watch`].
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocated bytes, from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Watch(usize);

/// Starts to watch.
pub fn watch() -> Watch {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    Watch(before)
}

impl Watch {
    /// What is allocated now, beyond what was at the start.
    #[allow(dead_code, reason = "not every test asks for it")]
    pub fn live(self) -> usize {
        LIVE.load(Ordering::Relaxed) - self.0
    }

    /// The most that was allocated since the start, beyond what was then.
    pub fn peak(self) -> usize {
        PEAK.load(Ordering::Relaxed) - self.0
    }
}
