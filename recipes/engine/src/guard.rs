//! Turns panics into errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Result, anyhow};
use burnish_kernels::products::is_tried;

/// Number of guarded calls in progress.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Messages of guarded panics, including those on a device's thread.
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether panics currently become errors, those on a device's thread included. A panic hook should not print them then.
pub fn panics_are_guarded() -> bool {
    GUARDS.load(Ordering::SeqCst) > 0 || is_tried()
}

/// Starts to record the messages of guarded panics for [`take_messages`]. After a panic on a device's thread, the guarded thread only
/// learns that the device failed.
pub fn keep_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |info| {
            if panics_are_guarded() {
                let message = message(info.payload()).to_owned();
                MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
            print(info);
        }));
    });
}

/// Takes the recorded messages of guarded panics, if [`keep_messages`] was called before.
pub fn take_messages() -> Vec<String> {
    std::mem::take(&mut *MESSAGES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The text of a panic's payload.
pub fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Runs work whose panics, also on a device's thread, should not be printed.
///
/// # Errors
/// The payload of a panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    GUARDS.fetch_add(1, Ordering::SeqCst);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDS.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Turns a panic into an error, so that one failing measurement does not end the others.
///
/// # Errors
/// The error of the work, or the message of its panic.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work)
        .unwrap_or_else(|payload| Err(anyhow!("it panicked: {}", message(&*payload).lines().next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
        let error = guarded(|| -> Result<()> { panic!("out of {}\nmore", "memory") }).unwrap_err();
        assert_eq!(error.to_string(), "it panicked: out of memory");
        guarded(|| {
            assert!(panics_are_guarded());
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_guarded_panic_on_another_thread_is_recorded() {
        keep_messages();
        let error = guarded(|| -> Result<()> {
            std::thread::spawn(|| panic!("wgpu error: Out of Memory")).join().ok();
            Err(anyhow!("loss NaN"))
        });
        assert_eq!(error.unwrap_err().to_string(), "loss NaN");
        assert!(take_messages().iter().any(|message| message == "wgpu error: Out of Memory"));
    }
}
