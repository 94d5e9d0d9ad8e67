//! The bytes of a file, unpacked while they are read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::unpack;

/// Bytes that are read ahead.
const BUFFER: usize = 256 << 10;
/// Bytes from which the kind of a file is recognised.
const HEAD: u64 = 4096;

/// How many bytes of a file were read so far, before they are unpacked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position(Arc<AtomicU64>);

impl Position {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The file itself.
struct Counted {
    file: File,
    position: Position,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position.add(read as u64);
        Ok(read)
    }
}

/// A file that is being read.
pub(super) struct Input {
    /// Its first bytes, unpacked; `rest` begins with them.
    pub(super) head: Vec<u8>,
    /// All of its bytes, unpacked.
    pub(super) rest: Box<dyn BufRead>,
}

impl Input {
    /// Opens a file, which may be compressed by gzip or zstd.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(super) fn open(file: &Path, position: &Position) -> io::Result<Self> {
        let counted = Counted { file: File::open(file)?, position: position.clone() };
        let mut unpacked = unpack::unpacked(BufReader::with_capacity(BUFFER, counted))?;
        let mut head = Vec::new();
        unpacked.by_ref().take(HEAD).read_to_end(&mut head)?;
        let rest = Box::new(Cursor::new(head.clone()).chain(unpacked));
        Ok(Self { head, rest })
    }
}
