//! Small numbers in runs, or packed bit by bit: levels, indices into a dictionary, truth values.

use std::ops::Range;
use std::rc::Rc;

use super::varint::varint;

/// Reads the numbers one by one.
#[derive(Debug)]
pub(super) struct Hybrid {
    bytes: Rc<Vec<u8>>,
    /// What is not read yet.
    range: Range<usize>,
    /// Bits of a number.
    width: u32,
    run: Run,
}

#[derive(Debug)]
enum Run {
    Equal {
        left: u64,
        value: u32,
    },
    /// `bit` counts from the beginning of the bytes.
    Packed {
        left: u64,
        bit: usize,
    },
}

impl Hybrid {
    /// Reads numbers of up to 32 bits from a range of bytes.
    pub(super) fn new(bytes: Rc<Vec<u8>>, range: Range<usize>, width: u32) -> Option<Self> {
        let is_within = width <= 32 && range.start <= range.end && range.end <= bytes.len();
        is_within.then_some(Self { bytes, range, width, run: Run::Equal { left: 0, value: 0 } })
    }

    /// The next number; `None` if the bytes are damaged or end.
    pub(super) fn next(&mut self) -> Option<u32> {
        loop {
            match &mut self.run {
                Run::Equal { left: 0, .. } | Run::Packed { left: 0, .. } => self.begin()?,
                Run::Equal { left, value } => {
                    *left -= 1;
                    return Some(*value);
                }
                Run::Packed { left, bit } => {
                    *left -= 1;
                    let start = *bit;
                    *bit += self.width as usize;
                    return bits(&self.bytes[..self.range.start], start, self.width).map(|value| value as u32);
                }
            }
        }
    }

    fn begin(&mut self) -> Option<()> {
        let mut at = self.range.start;
        let header = varint(&self.bytes[..self.range.end], &mut at)?;
        let count = header >> 1;
        if count == 0 {
            return None;
        }
        if header & 1 == 1 {
            // The last group may be incomplete in the file.
            let size = usize::try_from(count.checked_mul(u64::from(self.width))?).ok()?;
            let end = at.checked_add(size)?.min(self.range.end);
            self.run = Run::Packed { left: count.checked_mul(8)?, bit: at * 8 };
            self.range.start = end;
        } else {
            let size = self.width.div_ceil(8) as usize;
            let value = self.bytes.get(at..at + size).filter(|_| at + size <= self.range.end)?;
            let value = value.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            self.run = Run::Equal { left: count, value: value as u32 };
            self.range.start = at + size;
        }
        Some(())
    }
}

/// A number of up to 64 bits, which begins at a bit; the lowest bits come first.
pub(super) fn bits(bytes: &[u8], start: usize, width: u32) -> Option<u64> {
    let end = start + width as usize;
    if end > bytes.len() * 8 {
        return None;
    }
    let (first, shift) = (start / 8, start % 8);
    let mut word = [0; 16];
    let available = (bytes.len() - first).min(16);
    word[..available].copy_from_slice(&bytes[first..first + available]);
    let value = u128::from_le_bytes(word) >> shift;
    Some(if width >= 64 { value as u64 } else { value as u64 & ((1 << width) - 1) })
}
