//! The thread pool of the CPU kernels.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs work on a thread of the kernels' pool, where kernels start without waking another thread.
///
/// Only one work at a time runs there; others stay on their own thread. Otherwise a pool thread that waits for a kernel of one work
/// could start a second work, and keep the first one's locks until the second ends.
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
