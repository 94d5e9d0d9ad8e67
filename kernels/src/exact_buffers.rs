//! Buffers of exactly the size of their tensors.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use burn::tensor::backend::Backend;

thread_local! {
    static IS_WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Clears the mark of the thread, also if the work panics.
struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        IS_WITHIN.set(false);
    }
}

/// Does some work whose tensors get buffers of exactly their size, which the backend keeps for later tensors of that size.
///
/// Otherwise a backend with memory pools cuts a tensor from a page that can be much larger: on an H200, CUDA has pages of 548 MB for
/// tensors of 8.6 MB. Steps that repeat the same sizes take less memory in exact buffers; work whose sizes change takes more, because a
/// buffer serves tensors of one size only. Calls may nest.
///
/// # Panics
/// If the work panics.
pub fn exact_buffers<B: Backend, R: Send>(device: &B::Device, work: impl FnOnce() -> R + Send) -> R {
    if IS_WITHIN.replace(true) {
        return work();
    }
    let _mark = Mark;
    // burn takes a function that it may call more than once, and calls it once.
    let work = Mutex::new(Some(work));
    let done = B::memory_persistent_allocations(device, (), |()| {
        let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
        work.map(|work| work())
    });
    done.unwrap_or_else(|| unreachable!("the work is done once"))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn work_is_done_once_and_may_nest() {
        let device = Default::default();
        let mut count = 0;
        let inner = exact_buffers::<Flex, _>(&device, || {
            count += 1;
            exact_buffers::<Flex, _>(&device, || IS_WITHIN.get())
        });
        assert!(inner && count == 1 && !IS_WITHIN.get());
        let panics = std::panic::catch_unwind(|| exact_buffers::<Flex, ()>(&Default::default(), || panic!("planted")));
        assert!(panics.is_err() && !IS_WITHIN.get());
    }
}
