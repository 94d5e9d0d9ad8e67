//! A lock file, so that only one run at a time uses a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use burnish_engine::with_hint;

/// The lock file. It stays after the run, but the system releases the lock however the run ends.
pub const NAME: &str = ".lock";

/// Locks a run folder until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    is_held: bool,
}

impl RunLock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// When another process, or another run in this process, holds the lock.
    pub fn take(run: &Path) -> Result<Self> {
        let path = run.join(NAME);
        let open = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path);
        let mut file = open.with_context(|| path.display().to_string())?;
        let is_held = match file.try_lock() {
            Ok(()) => {
                let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                write.with_context(|| path.display().to_string())?;
                true
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Some systems don't allow reading a locked file.
                file.read_to_string(&mut holder).ok();
                let holder = holder.trim();
                let who = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
                return Err(with_hint(
                    format!("{} is in use by {who}, which trains there", run.display()),
                    "wait until it ends, or choose another --output-dir",
                ));
            }
            // Some network file systems have no locks; go on without one.
            Err(TryLockError::Error(_)) => false,
        };
        Ok(Self { _file: file, is_held })
    }

    /// A line for the user if the file system has no locks.
    pub fn note(&self, run: &Path) -> Option<String> {
        let line = || {
            format!(
                "{} is on a file system without locks, so a second run in this folder would not be noticed",
                run.display()
            )
        };
        (!self.is_held).then(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    #[test]
    fn only_one_run_locks_a_folder_and_a_stale_lock_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), "12345\n").unwrap();
        let held = RunLock::take(folder.path()).unwrap();
        let error = RunLock::take(folder.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(hint(&error).unwrap().contains("--output-dir"));
        assert!(held.note(folder.path()).is_none());
        drop(held);
        let held = RunLock { is_held: false, ..RunLock::take(folder.path()).unwrap() };
        assert!(held.note(folder.path()).unwrap().contains("without locks"));
    }
}
