//! Tests that count what the emulator does or holds run one at a time: it counts for the whole process.

use std::sync::Mutex;

/// Held by such a test.
pub static COUNTING: Mutex<()> = Mutex::new(());
