//! Panics that become errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Result, anyhow};

/// How much is guarded right now.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// What guarded panics said, those of a device's thread too.
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether panics, those of a device's thread too, become errors: a hook that prints panics leaves them out.
pub fn panics_are_guarded() -> bool {
    GUARDS.load(Ordering::SeqCst) > 0
}

/// From now on, what guarded panics say is kept for [`take_messages`]. A device's thread panics beside the thread that guards, which
/// then sees only that the device failed.
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

/// What guarded panics said since the last call, where [`keep_messages`] was called.
pub fn take_messages() -> Vec<String> {
    std::mem::take(&mut *MESSAGES.lock().unwrap_or_else(PoisonError::into_inner))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let said = payload.downcast_ref::<String>().map(String::as_str);
    said.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
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
    caught(work)
        .unwrap_or_else(|payload| Err(anyhow!("it panicked: {}", message(&*payload).lines().next().unwrap_or_default())))
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

    #[test]
    fn a_guarded_panic_of_another_thread_is_kept() {
        keep_messages();
        let error = guarded(|| -> Result<()> {
            std::thread::spawn(|| panic!("wgpu error: Out of Memory")).join().ok();
            Err(anyhow!("loss NaN"))
        });
        assert_eq!(error.unwrap_err().to_string(), "loss NaN");
        assert!(take_messages().iter().any(|message| message == "wgpu error: Out of Memory"));
    }
}
