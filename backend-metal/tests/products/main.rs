//! Products in the emulator: each way to compute them is right, and moves the bytes that it should.
//!
//! A process of its own, in which one test runs at a time: notes and counters are those of all products that run in it.
#![allow(clippy::unwrap_used)]

mod candidates;
mod packed_bytes;
mod tile_bytes;
mod units;

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Waits for the other tests.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
