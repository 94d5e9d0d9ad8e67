//! Turns panics into errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

/// Number of guarded calls in progress.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Whether panics currently become errors, those on a device's thread included. A panic hook should not print them then.
pub fn panics_are_guarded() -> bool {
    GUARDS.load(Ordering::SeqCst) > 0
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
    caught(work).unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        Err(anyhow!("it panicked: {}", message.unwrap_or("no message").lines().next().unwrap_or_default()))
    })
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
}
