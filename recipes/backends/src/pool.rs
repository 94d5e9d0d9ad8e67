//! The threads that the CPU's kernels share.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs work on a thread of the pool that the kernels share, where a kernel's first part starts without waking anyone.
///
/// Only work that begins while no other runs goes there; the rest stays on its own thread. A thread of the pool that waits for a part
/// of one work would else take up another whole, and hold what the first has locked until that one's end.
pub(crate) fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let is_alone = RUNNING.fetch_add(1, Ordering::SeqCst) == 0;
    let _ended = Ended;
    if is_alone { rayon::scope(|_| work()) } else { work() }
}
