//! Integers as differences of neighbours.

use std::ops::Range;
use std::rc::Rc;

use super::hybrid::bits;
use super::varint::{varint, zigzag};

/// Most values of a block. Writers use some hundred.
const MAX_BLOCK: u64 = 1 << 14;

/// Reads the integers one by one.
#[derive(Debug)]
pub(super) struct Delta {
    bytes: Rc<Vec<u8>>,
    end: usize,
    /// Where the next block, or the next part of one, begins.
    at: usize,
    /// Values that were not read, with the first.
    left: u64,
    is_first: bool,
    value: i64,
    smallest: i64,
    /// Values of a part of a block, which have the same width.
    part: u64,
    /// The widths of the parts of the block that were not begun.
    widths: Range<usize>,
    parts: usize,
    /// The part that is being read.
    width: u32,
    in_part: u64,
    bit: usize,
}

impl Delta {
    pub(super) fn new(bytes: Rc<Vec<u8>>, range: Range<usize>) -> Option<Self> {
        let read = bytes.get(..range.end)?;
        let mut at = range.start;
        let (block, parts, left) = (varint(read, &mut at)?, varint(read, &mut at)?, varint(read, &mut at)?);
        let value = zigzag(varint(read, &mut at)?);
        if block == 0 || block > MAX_BLOCK || parts == 0 || block % parts != 0 || (block / parts) % 8 != 0 {
            return None;
        }
        Some(Self {
            end: range.end,
            at,
            left,
            is_first: true,
            value,
            smallest: 0,
            part: block / parts,
            widths: 0..0,
            parts: parts as usize,
            width: 0,
            in_part: 0,
            bit: 0,
            bytes,
        })
    }

    /// Values that were not read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next integer; `None` if the bytes are damaged or end.
    pub(super) fn next(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if self.is_first {
            self.is_first = false;
            return Some(self.value);
        }
        if self.in_part == 0 {
            self.begin()?;
        }
        self.in_part -= 1;
        let more = bits(&self.bytes[..self.end], self.bit, self.width)? as i64;
        self.bit += self.width as usize;
        self.value = self.value.wrapping_add(self.smallest).wrapping_add(more);
        Some(self.value)
    }

    fn begin(&mut self) -> Option<()> {
        let read = &self.bytes[..self.end];
        if self.widths.is_empty() {
            self.smallest = zigzag(varint(read, &mut self.at)?);
            self.widths = self.at..self.at.checked_add(self.parts)?;
            self.at = self.widths.end;
        }
        self.width = u32::from(*read.get(self.widths.start)?);
        self.widths.start += 1;
        if self.width > 64 {
            return None;
        }
        self.in_part = self.part;
        self.bit = self.at * 8;
        self.at += (self.part * u64::from(self.width) / 8) as usize;
        Some(())
    }

    /// Where the bytes of other values begin, after all integers were read.
    pub(super) fn end(&self) -> usize {
        self.at.min(self.end)
    }
}
