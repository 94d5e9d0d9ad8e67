//! A file of which parts are read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::flaw::Flaw;
use super::input::Position;

/// A file of which parts are read.
#[derive(Debug)]
pub(super) struct Ranged {
    file: File,
    size: u64,
    position: Position,
}

impl Ranged {
    /// Opens a file.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn open(path: &Path, position: &Position) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, position: position.clone() })
    }

    /// Its bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads a part. No more is allocated than the file has.
    ///
    /// # Errors
    /// When the file can't be read, or ends earlier.
    pub(super) fn read(&self, start: u64, count: u64) -> Result<Vec<u8>, Flaw> {
        if start.checked_add(count).is_none_or(|end| end > self.size) {
            return Err(Flaw::damaged("it ends too early; it may be truncated"));
        }
        let mut bytes = vec![0; count as usize];
        (&self.file).seek(SeekFrom::Start(start))?;
        (&self.file).read_exact(&mut bytes)?;
        self.position.add(count);
        Ok(bytes)
    }
}
