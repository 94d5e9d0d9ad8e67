//! Panics that become errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

/// How much is guarded right now.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Whether panics, those of a device's thread too, become errors: a hook that prints panics leaves them out.
pub fn panics_are_guarded() -> bool {
    GUARDS.load(Ordering::SeqCst) > 0
}

/// Does work whose panics, and those that it causes on a device's thread, are not to be printed.
///
/// # Errors
/// The payload of a panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    GUARDS.fetch_add(1, Ordering::SeqCst);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDS.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Turns a panic into an error: a row that fails must not take the others with it.
///
/// # Errors
/// That of the work, or the words of the panic.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        Err(anyhow!("it panicked: {}", said.unwrap_or("no message").lines().next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_its_row() {
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
