//! Reads the corpus, some damaged files, and large files that say little with every reader.
#![allow(clippy::unwrap_used)]

use burnish_fuzz::attempt::Place;
use burnish_fuzz::fuzz::Limit;
use burnish_fuzz::{Counting, TARGETS, fuzz};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Damaged files of each reader.
const FILES: u64 = 300;

/// One test, since memory is counted for the whole process.
#[test]
fn damaged_files_are_read_or_refused() {
    let mut faults = Vec::new();
    for target in TARGETS {
        let folder = tempfile::tempdir().unwrap();
        let found = |bytes: &[u8], fault: &_| faults.push(format!("{}: {fault:?} of {} bytes", target.name, bytes.len()));
        let stats = fuzz(target, folder.path(), 7, Limit::Files(FILES), found, |_| {}).unwrap();
        assert!(stats.corpus > 1, "{}: every file leads to the same", target.name);
    }
    for (target, name, bytes) in burnish_fuzz::large::files() {
        let folder = tempfile::tempdir().unwrap();
        let attempt = Place::new(target, folder.path()).unwrap().read(target, &bytes).unwrap();
        if let Some(fault) = attempt.fault {
            faults.push(format!("{}, {name}: {fault:?} of {} bytes", target.name, bytes.len()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
