//! Work on a device that may fail, with its reason on one line.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burnish_engine::guard::{guarded, keep_messages, take_messages};
use burnish_engine::{gib, out_of_memory};
use burnish_kernels::FusedBackend;

use super::stopwatch::wait;

/// Held during a measurement: what panics say belongs to the one that runs.
static MEASURING: Mutex<()> = Mutex::new(());

/// Does work on a device, one at a time. Where it fails, the device is left ready for the next work.
///
/// # Errors
/// The reason on one line; "out of memory" where that is the cause, however the device put it.
pub fn attempt<B: FusedBackend, T>(device: &B::Device, work: impl FnOnce() -> Result<T>) -> Result<T, String> {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    keep_messages();
    take_messages();
    let done = guarded(work);
    // After a failure on its own thread, a device may go on with wrong numbers.
    let mut messages = take_messages();
    let error = match done {
        Ok(done) if messages.is_empty() => return Ok(done),
        Ok(_) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    let held = B::device_memory(device).map(|memory| memory.reserved);
    // Errors that are still pending must not reach the next work.
    guarded(|| wait::<B>(device)).ok();
    guarded(|| wait::<B>(device)).ok();
    B::memory_cleanup(device);
    messages.extend(take_messages());
    messages.extend(error);
    Err(reason(&messages, B::largest_allocation(device), held))
}

/// The last message is the error of the work, the others are those of panics beside it.
fn reason(messages: &[String], allowed: Option<u64>, held: Option<u64>) -> String {
    let Some(reason) = out_of_memory(messages, allowed) else {
        return messages.last().cloned().unwrap_or_default().replace('\n', ": ");
    };
    let held = held.filter(|bytes| *bytes > 0).map(|bytes| format!("; the backend holds {}", gib(bytes)));
    format!("{reason}{}", held.unwrap_or_default())
}

/// The reason why a device can't allocate a buffer of this size; `None` where it can.
pub fn too_large<B: FusedBackend>(device: &B::Device, bytes: u64) -> Option<String> {
    refusal(bytes, B::largest_allocation(device)?)
}

fn refusal(bytes: u64, allowed: u64) -> Option<String> {
    let sizes = if gib(bytes) == gib(allowed) {
        [bytes, allowed].map(|bytes| format!("{bytes} bytes"))
    } else {
        [bytes, allowed].map(gib)
    };
    (bytes > allowed).then(|| format!("a buffer of {} is needed, the device allows {}", sizes[0], sizes[1]))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn nan_after_a_panic_of_the_device_is_memory_that_ran_out() {
        let error = attempt::<Flex, ()>(&Default::default(), || {
            std::thread::spawn(|| panic!("wgpu error: Out of Memory")).join().ok();
            Err(anyhow!("loss NaN, gradient norm NaN"))
        });
        assert_eq!(error.unwrap_err(), "out of memory");
    }

    #[test]
    fn a_result_after_a_panic_of_the_device_does_not_count() {
        let result = attempt::<Flex, f64>(&Default::default(), || {
            std::thread::spawn(|| panic!("can't allocate buffer of size: 2147483648")).join().ok();
            Ok(12.163)
        });
        assert_eq!(result.unwrap_err(), "out of memory: a buffer of 2.00 GiB is needed");
        assert_eq!(attempt::<Flex, _>(&Default::default(), || Ok(1)), Ok(1));
    }

    #[test]
    fn what_is_held_is_told_and_other_errors_stay_as_they_are() {
        let full = ["Out of Memory".to_owned(), "loss NaN".to_owned()];
        assert_eq!(reason(&full, None, Some(78 << 30)), "out of memory; the backend holds 78.00 GiB");
        assert_eq!(reason(&["loss NaN\nagain".to_owned()], None, Some(1)), "loss NaN: again");
    }

    #[test]
    fn a_buffer_beyond_the_limit_is_refused_before_it_is_asked_for() {
        assert_eq!(refusal(512 << 20, 1 << 30), None);
        let expected = "a buffer of 2.00 GiB is needed, the device allows 1.00 GiB";
        assert_eq!(refusal(2 << 30, 1 << 30).unwrap(), expected);
        let expected = "a buffer of 2147483648 bytes is needed, the device allows 2147483647 bytes";
        assert_eq!(refusal(2 << 30, (2 << 30) - 1).unwrap(), expected);
        assert_eq!(too_large::<Flex>(&Default::default(), u64::MAX), None);
    }
}
