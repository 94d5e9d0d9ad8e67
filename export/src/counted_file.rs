//! Files that count the bytes written to them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{ExportError, Result};

/// A buffered file that counts the bytes written to it.
pub(crate) struct CountedFile {
    writer: BufWriter<File>,
    path: PathBuf,
    pub(crate) written: u64,
}

impl CountedFile {
    /// Counts what is written to an open file; `path` is for error messages.
    pub(crate) fn new(file: File, path: &Path) -> Self {
        Self { writer: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), written: 0 }
    }

    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self::new(File::create(path).map_err(|error| ExportError::io(path, error))?, path))
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| ExportError::io(&self.path, error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64) -> Result<()> {
        let gap = self.written.next_multiple_of(alignment) - self.written;
        self.put(&vec![0; gap as usize])
    }

    /// Writes the buffer to the disk, and returns the number of bytes of the file.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.writer.flush().map_err(|error| ExportError::io(&self.path, error))?;
        self.writer.get_ref().sync_all().map_err(|error| ExportError::io(&self.path, error))?;
        Ok(self.written)
    }
}

/// Writes a text file, and returns its number of bytes.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<u64> {
    let mut file = CountedFile::create(path)?;
    file.put(text.as_bytes())?;
    file.finish()
}
