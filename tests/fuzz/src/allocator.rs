//! Counts every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The allocator that counts. It has more bytes than this at no time, so that a reader that asks for more ends its process.
pub const MOST: usize = 2 << 30;

/// The system's allocator, counted.
pub struct Counting;

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most of them since [`watch`].
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is, or fails as the contract allows.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed).saturating_add(layout.size());
        PEAK.fetch_max(live, Ordering::Relaxed);
        if live > MOST {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Starts to watch, and returns the bytes that are allocated now.
pub fn watch() -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    before
}

/// The most that was allocated since the start, beyond what was then.
pub fn peak(before: usize) -> usize {
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}
