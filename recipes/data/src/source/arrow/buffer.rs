//! The buffers of a record batch, of which parts are read.

use std::cell::RefCell;
use std::ops::Range;

use crate::source::codec::Codec;
use crate::source::flaw::Flaw;
use crate::source::ranged::Ranged;

/// Bytes that are read at once.
const BLOCK: u64 = 64 << 10;

/// A buffer in the file, or unpacked in memory.
pub(super) struct Buffer<'a> {
    file: &'a Ranged,
    start: u64,
    length: u64,
    /// What was read last, and where it begins in the buffer.
    block: RefCell<(u64, Vec<u8>)>,
}

fn outside() -> Flaw {
    Flaw::damaged("a column ends before its values do")
}

impl<'a> Buffer<'a> {
    /// A buffer of the file.
    ///
    /// # Errors
    /// If it is compressed and can't be unpacked.
    pub(super) fn new(file: &'a Ranged, start: u64, length: u64, codec: Option<Codec>) -> Result<Self, Flaw> {
        let plain = |start, length| Self { file, start, length, block: RefCell::default() };
        let Some(codec) = codec.filter(|_| length > 0) else { return Ok(plain(start, length)) };
        let head = file.read(start, length.min(8))?;
        let size = head.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)).ok_or_else(outside)?;
        if size == -1 {
            return Ok(plain(start + 8, length - 8));
        }
        let size = usize::try_from(size).map_err(|_| Flaw::damaged("the length of a compressed column is negative"))?;
        let unpacked = codec.unpack(file.read(start + 8, length - 8)?, size)?;
        Ok(Self { file, start, length: size as u64, block: RefCell::new((0, unpacked)) })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Reads all of it, since any part may be needed next.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(super) fn keep(&self) -> Result<(), Flaw> {
        let mut block = self.block.borrow_mut();
        if block.1.len() as u64 != self.length {
            *block = (0, self.file.read(self.start, self.length)?);
        }
        Ok(())
    }

    /// Calls `take` with a part.
    ///
    /// # Errors
    /// If it is not within the buffer, and those of `take`.
    pub(super) fn with<T>(&self, range: Range<u64>, take: impl FnOnce(&[u8]) -> Result<T, Flaw>) -> Result<T, Flaw> {
        if range.start > range.end || range.end > self.length {
            return Err(outside());
        }
        let mut block = self.block.borrow_mut();
        let (start, bytes) = (block.0, block.1.len() as u64);
        if range.start < start || range.end > start + bytes {
            let count = (range.end - range.start).max(BLOCK.min(self.length - range.start));
            *block = (range.start, self.file.read(self.start + range.start, count)?);
        }
        let from = (range.start - block.0) as usize;
        take(&block.1[from..from + (range.end - range.start) as usize])
    }

    /// A number of up to 8 bytes, the lowest first.
    ///
    /// # Errors
    /// As [`Buffer::with`].
    pub(super) fn number(&self, index: u64, size: usize, signed: bool) -> Result<i64, Flaw> {
        let start = index.checked_mul(size as u64).ok_or_else(outside)?;
        self.with(start..start.saturating_add(size as u64), |bytes| {
            let fill = if signed && bytes.last().is_some_and(|byte| byte >> 7 == 1) { 0xff } else { 0 };
            let mut whole = [fill; 8];
            whole[..size].copy_from_slice(bytes);
            Ok(i64::from_le_bytes(whole))
        })
    }

    /// A bit.
    ///
    /// # Errors
    /// As [`Buffer::with`].
    pub(super) fn bit(&self, index: u64) -> Result<bool, Flaw> {
        self.with(index / 8..index / 8 + 1, |bytes| Ok(bytes[0] >> (index % 8) & 1 == 1))
    }

    /// The range between two offsets.
    ///
    /// # Errors
    /// As [`Buffer::with`], and if they are not in order.
    pub(super) fn range(&self, index: u64, size: usize) -> Result<Range<u64>, Flaw> {
        let [start, end] = [index, index + 1].map(|at| self.number(at, size, true));
        match (u64::try_from(start?), u64::try_from(end?)) {
            (Ok(start), Ok(end)) if start <= end => Ok(start..end),
            _ => Err(Flaw::damaged("the offsets of a column are not in order")),
        }
    }
}
