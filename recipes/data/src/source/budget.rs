//! The memory of a row.

use super::flaw::Flaw;

/// Bytes of a row. Runs of equal values take few bytes in a file and many in memory.
const BYTES: usize = 256 << 20;

/// Counts what a row takes, so that a damaged file can't exhaust memory.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// For a new row.
    pub(super) fn new() -> Self {
        Self { left: BYTES }
    }

    /// Takes a value with so many bytes of text.
    ///
    /// # Errors
    /// If the row is too large.
    pub(super) fn spend(&mut self, text: usize) -> Result<(), Flaw> {
        let cost = text.saturating_add(size_of::<serde_json::Value>());
        self.left = self.left.checked_sub(cost).ok_or_else(|| Flaw::damaged("a row takes more than 256 MiB"))?;
        Ok(())
    }

    /// What was taken so far.
    pub(super) fn spent(&self) -> usize {
        BYTES - self.left
    }
}
