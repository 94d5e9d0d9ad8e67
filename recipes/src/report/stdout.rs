//! Results, which go to stdout.

use std::io::{ErrorKind, Write, stdout};
use std::sync::{Mutex, PoisonError};

/// Why results were lost, if they were.
static FAILURE: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Writes to stdout. That its reader has closed the pipe is not an error; any other one makes the program fail at its end.
pub fn print(text: &str) {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            FAILURE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        _ => {}
    }
}

/// The error of the first text that was lost.
pub fn failure() -> Option<std::io::Error> {
    FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take()
}
